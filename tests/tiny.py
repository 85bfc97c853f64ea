"""Tiny random models and samples, the same on every machine and in every test."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCAB = 48
LAYERS, NEURONS = 2, 24
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": NEURONS,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Wide enough that attention and gates are far from uniform, so that every rule matters.
    "initializer_range": 0.35,
}


def _build(model_class: type, config: Any, dtype: torch.dtype, seed: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
        for name, parameter in model.named_parameters():
            # transformers starts norms at one and biases at zero: a test would not see them.
            if name.endswith("bias") or "norm" in name:
                nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model.to(dtype).eval()


def tiny_llama(*, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> LlamaForCausalLM:
    return _build(LlamaForCausalLM, LlamaConfig(**{**SHAPE, **options}), dtype, seed)


def tiny_mistral(*, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> MistralForCausalLM:
    """Mistral with a sliding window shorter than most samples."""
    return _build(MistralForCausalLM, MistralConfig(**{**SHAPE, "sliding_window": 4, **options}), dtype, seed)


def tiny_qwen2(*, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> Qwen2ForCausalLM:
    """Qwen2: biases on q, k and v; a sliding window in its second layer."""
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    return _build(Qwen2ForCausalLM, Qwen2Config(**{**SHAPE, **window, **options}), dtype, seed)


TINY = {"llama": tiny_llama, "mistral": tiny_mistral, "qwen2": tiny_qwen2}


def tiny_samples(lengths: Sequence[int] = (7, 3, 12, 1, 5, 9, 2), seed: int = 0, vocab: int = VOCAB) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (length,), generator=generator) for length in lengths]


def gradients(model: PreTrainedModel, sample: Tensor) -> dict[str, Tensor]:
    """Gradient of the largest last logit in every parameter, by whatever autograd does just now."""
    model.zero_grad()
    model(input_ids=sample[None], use_cache=False).logits[0, -1].max().backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found
