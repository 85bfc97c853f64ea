"""Load a causal language model and its tokenizer from the hub, a directory, or a bare config."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning.models.checkpoint import (
    CONFIG,
    NO_CODE,
    Checkpoint,
    check_attention,
    check_rope,
    constant_context,
)
from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.hub import fetch, one_line, reason

DtypeName = Literal["auto", "float32", "bfloat16", "float16", "float64"]

# What a tokenizer may consist of; each has some of them.
TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.tiktoken",
    "tekken.json", "chat_template*",
)  # fmt: skip

# transformers still reads these names, and turns them into `rope_parameters`.
_LEGACY_FIELDS = ("rope_theta", "rope_scaling")


def torch_dtype(name: DtypeName) -> torch.dtype | None:
    """The dtype of a name; None for "auto", the checkpoint's own."""
    return None if name == "auto" else getattr(torch, name)


def context_length(model: PreTrainedModel) -> int:
    """Longest text that the model was made for and reads alike in any batch, in tokens.

    Where the rotary base changes with the length, that is less than the longest; see `checkpoint.constant_context`.
    """
    config = model.config.get_text_config()
    return int(constant_context(vars(config)) or config.max_position_embeddings)


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer by hub id or directory.

    Raises:
        OSError: It cannot be reached, is not there or cannot be read; says what to do.
    """
    directory = fetch("tokenizer", name, revision, [CONFIG, *TOKENIZER_FILES])
    with one_line("tokenizer", name):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory, **NO_CODE)
    return tokenizer


def load_model(
    name: str, revision: str | None = None, dtype: DtypeName = "auto", attn_implementation: str | None = None
) -> PreTrainedModel:
    """Load a causal language model by hub id or directory; weights only from safetensors.

    Args:
        name: Hub id or Hugging Face directory.
        revision: Revision on the hub.
        dtype: Type of the weights; "auto" is the checkpoint's own.
        attn_implementation: Attention implementation.

    Raises:
        OSError: It cannot be reached or is not there; says what to do.
        ValueError: Its `model_type` is of no known family, or it is quantised; found before any weight is read. Or
            weights are damaged, missing, or of other shapes than the config says.
    """
    checkpoint = Checkpoint.open(name, revision)
    model = checkpoint.empty_model(torch_dtype(dtype), attn_implementation)
    give_memory(model, torch.get_default_device())
    model.tie_weights()
    checkpoint.fill(model)
    return model.eval()


def give_memory(model: PreTrainedModel, device: torch.device) -> None:
    """Give parameters without memory some on a device, not yet filled, and move all buffers there."""
    model._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device))


def build_model(
    config: dict[str, Any], vocab_size: int, dtype: DtypeName = "auto", attn_implementation: str | None = None
) -> PreTrainedModel:
    """A model with random weights, from the fields of its config; torch's seed decides them.

    Args:
        config: Fields of the Hugging Face config, with `model_type`; `vocab_size` may be left out.
        vocab_size: Of the tokenizer.
        dtype: Type of the weights; "auto" is float32.
        attn_implementation: Attention implementation.

    Raises:
        ValueError: No or an unknown `model_type`, unknown fields or ones that do not fit together, or a vocabulary
            smaller than the tokenizer's.
    """
    fields = {"vocab_size": vocab_size, **config}
    family = get_family(str(fields.pop("model_type", "")))
    if fields["vocab_size"] < vocab_size:
        raise ValueError(
            f"`vocab_size` must be at least {vocab_size} (the tokenizer's), got {fields['vocab_size']}. "
            "Set `model.config.vocab_size`."
        )
    known = {*AutoConfig.for_model(family.model_type).to_dict(), *_LEGACY_FIELDS}
    if unknown := sorted(set(fields) - known):
        raise ValueError(
            f"`config` must hold fields of a {family.model_type} config, got {unknown}. Set `model.config`."
        )
    check_rope(fields, "`config`", "model.config.rope_parameters")
    with _describing(family.model_type):
        built = AutoConfig.for_model(family.model_type, **fields)
    check_attention(built, attn_implementation)
    with _describing(family.model_type):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            built, dtype=torch_dtype(dtype) or torch.float32, attn_implementation=attn_implementation
        )
    family.check_config(built)
    return model.eval()


@contextmanager
def _describing(model_type: str) -> Iterator[None]:
    """Whatever transformers raises over the fields of a config becomes one line."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"`config` must describe a {model_type} model: {reason(error)} Set `model.config`.") from error
