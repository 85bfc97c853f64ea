"""Which model and which tokenizer: the identity that manifests and recipes carry."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def _bytes_of(tensor: Tensor) -> memoryview:
    # Rounded before it is gathered: half the bytes, and each value is rounded as it would be after.
    rounded = tensor.detach().to(torch.bfloat16)
    full = rounded.full_tensor() if isinstance(rounded, DTensor) else rounded
    flat = full.cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


def weight_hash(model: PreTrainedModel) -> str:
    """Sha256 over names, shapes and values of all parameters; sharded ones are gathered, so every rank must call it.

    Values are hashed as bfloat16, so that one checkpoint has one hash whether it was loaded as float64, float32 or
    bfloat16. (float16 loses the smallest weights.)
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(_bytes_of(parameter))
    return digest.hexdigest()


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Sha256 over the vocabulary and the special tokens."""
    content = {"vocab": tokenizer.get_vocab(), "special": tokenizer.special_tokens_map}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def base_model(model: PreTrainedModel, name: str | None = None, revision: str | None = None) -> dict[str, Any]:
    """Which model this is, for manifests and recipes.

    Args:
        model: The model; sharded parameters are gathered.
        name: Hub id or directory; default: what transformers noted when it loaded the model.
        revision: Revision asked for; default: the commit that was loaded.
    """
    return {
        "id": name or model.name_or_path or f"unnamed {model.config.model_type}",
        "revision": revision or getattr(model.config, "_commit_hash", None),
        "model_type": model.config.model_type,
        "num_layers": model.config.num_hidden_layers,
        "num_neurons": model.config.num_hidden_layers * model.config.intermediate_size,
        "weight_hash": weight_hash(model),
    }
