"""Tiny random models and samples, the same on every machine and in every test."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
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
            is_norm_weight = name.endswith("weight") and ("norm" in name or "ln_" in name)
            if name.endswith("bias") or is_norm_weight:
                nn.init.normal_(parameter, mean=float(is_norm_weight), std=0.3)
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


def tiny_qwen3(*, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> Qwen3ForCausalLM:
    """Qwen3: norms of queries and keys; heads wider than their share; a sliding window in its second layer."""
    own = {"head_dim": 6, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    return _build(Qwen3ForCausalLM, Qwen3Config(**{**SHAPE, **own, **options}), dtype, seed)


def tiny_gemma2(*, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> Gemma2ForCausalLM:
    """Gemma 2: caps low enough to bend scores and logits; a sliding window in its first layer."""
    own = {
        "head_dim": 6, "query_pre_attn_scalar": 5, "sliding_window": 4, "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.0, "tie_word_embeddings": False,
    }  # fmt: skip
    return _build(Gemma2ForCausalLM, Gemma2Config(**{**SHAPE, **own, **options}), dtype, seed)


def tiny_gemma3(*, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> Gemma3ForCausalLM:
    """Gemma 3: a sliding and a global layer, whose rotations differ; norms of queries and keys."""
    own = {
        "head_dim": 6, "query_pre_attn_scalar": 5, "sliding_window": 4, "final_logit_softcapping": 2.0,
        "layer_types": ["sliding_attention", "full_attention"] * 2, "tie_word_embeddings": False,
    }  # fmt: skip
    fields = {**SHAPE, **own, **options}
    fields["layer_types"] = fields["layer_types"][: fields["num_hidden_layers"]]
    return _build(Gemma3ForCausalLM, Gemma3TextConfig(**fields), dtype, seed)


def tiny_gpt2(*, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> GPT2LMHeadModel:
    """GPT-2: layers stored as (I, O), one for q, k and v; biases; its own dropout is on in training mode."""
    shape = {
        "vocab_size": VOCAB, "n_embd": 16, "n_inner": NEURONS, "n_layer": LAYERS, "n_head": 4, "n_positions": 32,
        "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.35, "tie_word_embeddings": False,
    }  # fmt: skip
    return _build(GPT2LMHeadModel, GPT2Config(**{**shape, **options}), dtype, seed)


def tiny_gpt_neox(*, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> GPTNeoXForCausalLM:
    """GPT-NeoX: branches side by side; one layer for q, k and v, head by head; half of each head's channels turn."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    shape = {**{name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}, "hidden_act": "gelu"}
    return _build(GPTNeoXForCausalLM, GPTNeoXConfig(**{**shape, "rope_parameters": rope, **options}), dtype, seed)


def tiny_opt(*, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> OPTForCausalLM:
    """OPT: fc1 and fc2 in the block itself, with biases; ReLU."""
    shape = {
        **{name: value for name, value in SHAPE.items() if name not in ("intermediate_size", "num_key_value_heads")},
        "ffn_dim": NEURONS, "init_std": 0.35, "tie_word_embeddings": False,
    }  # fmt: skip
    return _build(OPTForCausalLM, OPTConfig(**{**shape, **options}), dtype, seed)


def tiny_phi3(*, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> Phi3ForCausalLM:
    """Phi-3: gate and up in one layer, q, k and v in another; half of each head's channels turn; a sliding window."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    own = {"sliding_window": 4, "rope_parameters": rope, "original_max_position_embeddings": 32}
    return _build(Phi3ForCausalLM, Phi3Config(**{**SHAPE, **own, **options}), dtype, seed)


def tiny_granite(*, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> GraniteForCausalLM:
    """Granite: all four factors other than one."""
    own = {
        "embedding_multiplier": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.6, "logits_scaling": 4.0,
    }  # fmt: skip
    return _build(GraniteForCausalLM, GraniteConfig(**{**SHAPE, **own, **options}), dtype, seed)


TINY = {
    "llama": tiny_llama, "mistral": tiny_mistral, "qwen2": tiny_qwen2, "qwen3": tiny_qwen3,
    "gemma2": tiny_gemma2, "gemma3_text": tiny_gemma3,
    "gpt2": tiny_gpt2, "opt": tiny_opt, "gpt_neox": tiny_gpt_neox, "phi3": tiny_phi3, "granite": tiny_granite,
}  # fmt: skip
GATED = ["llama", "mistral", "qwen2", "granite"]
# What tests/reference/llama.py covers; absolute.py the others.
RMS_NORM = [*GATED, "qwen3", "gemma2", "gemma3_text", "phi3"]


class Parts(NamedTuple):
    """Where a family's parts are, read off transformers' own models: what the package's tables are compared with."""

    blocks: str
    attention: str
    norm: str
    act: str
    rows: tuple[str, ...]
    column: str
    linears: tuple[str, ...]
    without_cp_lrp: tuple[str, ...]
    # Parts of a layer of `rows`, each with a row of every neuron.
    fused: int = 1


_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LLAMA = Parts(
    blocks="model.layers", attention="self_attn", norm="model.norm", act="mlp.act_fn",
    rows=("mlp.up_proj", "mlp.gate_proj"), column="mlp.down_proj",
    linears=(*_ATTENTION, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    without_cp_lrp=("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj"),
)  # fmt: skip
PARTS = {
    **dict.fromkeys(GATED, _LLAMA),
    "gemma2": _LLAMA,
    **dict.fromkeys(
        ["qwen3", "gemma3_text"],
        _LLAMA._replace(without_cp_lrp=(*_LLAMA.without_cp_lrp, "self_attn.q_norm", "self_attn.k_norm")),
    ),
    "phi3": _LLAMA._replace(
        act="mlp.activation_fn", rows=("mlp.gate_up_proj",), fused=2, without_cp_lrp=(),
        linears=("self_attn.o_proj", "self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj"),
    ),
    "gpt2": Parts(
        blocks="transformer.h", attention="attn", norm="transformer.ln_f", act="mlp.act",
        rows=("mlp.c_fc",), column="mlp.c_proj",
        linears=("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"), without_cp_lrp=(),
    ),
    "opt": Parts(
        blocks="model.decoder.layers", attention="self_attn", norm="model.decoder.final_layer_norm",
        act="activation_fn",
        rows=("fc1",), column="fc2",
        linears=("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"),
        without_cp_lrp=("self_attn.q_proj", "self_attn.k_proj"),
    ),
    "gpt_neox": Parts(
        blocks="gpt_neox.layers", attention="attention", norm="gpt_neox.final_layer_norm", act="mlp.act",
        rows=("mlp.dense_h_to_4h",), column="mlp.dense_4h_to_h",
        linears=("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        without_cp_lrp=(),
    ),
}  # fmt: skip


def neuron_modules(family: str) -> list[str]:
    """Full names of the layers whose rows are neurons."""
    return [f"{PARTS[family].blocks}.{layer}.{PARTS[family].rows[0]}" for layer in range(LAYERS)]


def neuron_rows(family: str, index: int, neurons: int = NEURONS) -> list[int]:
    """Rows of one neuron in each of the layers that make it."""
    return [part * neurons + index for part in range(PARTS[family].fused)]


def rows_of(family: str, name: str, tensor: Tensor) -> Tensor:
    """A tensor that lies as the weight of layer `name` does, as (O, I): a view."""
    return tensor.T if family == "gpt2" and name != "lm_head" else tensor


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
