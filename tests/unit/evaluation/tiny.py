"""A tiny language model with a word tokenizer that has, as LLaMA-3's, no padding token."""

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 60


@dataclass(frozen=True)
class TextPrompt:
    id: str
    text: str


def make_tokenizer(adds_eos: bool = False) -> PreTrainedTokenizerFast:
    words = {"<s>": 0, "</s>": 1, "<unk>": 2} | {f"w{n}": n for n in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "<s> $A </s>" if adds_eos else "<s> $A"
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=32
    )


def make_model(dtype: torch.dtype = torch.float64) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, bos_token_id=0, eos_token_id=1, pad_token_id=None,
        initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


def make_prompts(count: int = 7) -> list[TextPrompt]:
    """Prompts of different lengths."""
    return [TextPrompt(f"id/{n}", " ".join(f"w{3 + (7 * n + k) % 50}" for k in range(1 + n))) for n in range(count)]


def make_rows() -> list[str]:
    return ["", *(" ".join(f"w{3 + (n * n + k * k) % 50}" for k in range(9)) for n in range(20)), "  "]
