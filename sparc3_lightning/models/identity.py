"""Which model and which tokenizer: the identity that manifests and recipes carry."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning.distributed.owners import gather_to_owner
from sparc3_lightning.distributed.ranks import from_rank_zero, is_rank_zero
from sparc3_lightning.files import json_sha256
from sparc3_lightning.models.checkpoint import CONFIG, Checkpoint
from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.hub import commit_of, identity_of, local_directory

UNNAMED = "unnamed"
"""How the id of a model begins that came from no directory: built from a config, its weights lie nowhere."""


def weight_hash(model: PreTrainedModel) -> str:
    """Sha256 over names, shapes and values of all parameters. Every rank must call.

    Rank 0 alone computes it, over one parameter after the other, and tells the others.

    Values are hashed as bfloat16, so that one checkpoint has one hash whether it was loaded as float64, float32 or
    bfloat16. (float16 loses the smallest weights: see `checkpoint_hash`.)
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        whole = _on_rank_zero(parameter.detach())
        if whole is not None:
            _add(digest, name, whole)
    return from_rank_zero(digest.hexdigest)


def _on_rank_zero(weight: Tensor) -> Tensor | None:
    """The whole weight there, and nothing elsewhere: gathered where it is a shard, which not all are at all times."""
    if isinstance(weight, DTensor):
        # Rounded before it is gathered: half the bytes, and each value is rounded as it would be after.
        rounded = weight.to(torch.bfloat16)
        assert isinstance(rounded, DTensor)
        return gather_to_owner(rounded, owner=0)
    return weight if is_rank_zero() else None


def hash_in_hand(model: PreTrainedModel) -> str:
    """The `weight_hash` of a model that this rank holds whole, which other ranks' may differ from."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        _add(digest, name, parameter)
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", name: str, weight: Tensor) -> None:
    digest.update(f"{name}{tuple(weight.shape)}".encode())
    digest.update(_bytes_of(weight))


def _bytes_of(weight: Tensor) -> memoryview:
    flat = weight.detach().to(torch.bfloat16).cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


def checkpoint_hash(model: PreTrainedModel, in_hand: str | None = None) -> str:
    """The `weight_hash` of the checkpoint that a model was loaded from, before its weights were converted.

    It is the one of the weights in hand but for float16, which loses the smallest: there the checkpoint's files say
    whether the weights in hand are theirs. Weights that were changed since, or are of no checkpoint, keep their own
    hash. Every rank must call.

    Args:
        model: Whole or sharded.
        in_hand: Its `weight_hash`, where that is known.
    """
    known = in_hand or weight_hash(model)
    return known if model.dtype != torch.float16 else from_rank_zero(lambda: _hash_before_conversion(model, known))


def _hash_before_conversion(model: PreTrainedModel, in_hand: str) -> str:
    directory = local_directory(model.name_or_path, getattr(model.config, "_commit_hash", None), CONFIG)
    # Loaded as float16; or as bfloat16, which `trainer.precision` then converted.
    before, direct, by_bfloat16 = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    try:
        if directory is None:
            return in_hand
        for name, stored in Checkpoint.open(model.name_or_path, directory=directory).weights(model):
            _add(before, name, stored)
            _add(direct, name, stored.half())
            _add(by_bfloat16, name, stored.bfloat16().half())
    except (OSError, ValueError):
        return in_hand  # what it was loaded from is no longer there
    return before.hexdigest() if in_hand in (direct.hexdigest(), by_bfloat16.hexdigest()) else in_hand


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Sha256 over the vocabulary and the special tokens."""
    content = {"vocab": tokenizer.get_vocab(), "special": tokenizer.special_tokens_map}
    return json_sha256(content, default=str)


def tokenizer_identity(name: str, revision: str | None) -> dict[str, Any]:
    """Which tokenizer: hub id or directory, and the commit that a revision was."""
    files = ("tokenizer_config.json", "tokenizer.json")
    commit = next((commit for file in files if (commit := commit_of(name, revision, file))), None)
    return identity_of(name, revision, commit)


def base_model(
    model: PreTrainedModel,
    name: str | None = None,
    revision: str | None = None,
    tokenizer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Which model this is, for manifests and recipes. Every rank must call.

    Args:
        model: The model, whole or sharded.
        name: Hub id or directory; default: what transformers noted when it loaded the model.
        revision: Commit, branch or tag asked for; what is recorded is the commit that was loaded.
        tokenizer: Which tokenizer the run reads texts with; see `tokenizer_identity`.
    """
    name = name or model.name_or_path
    commit = getattr(model.config, "_commit_hash", None) or (commit_of(name, revision, CONFIG) if name else None)
    identity = identity_of(name, revision, commit) if name else {"id": None, "revision": revision}
    family = get_family(model.config.model_type)
    return {
        **identity,
        "id": name or f"{UNNAMED} {model.config.model_type}",
        "model_type": model.config.model_type,
        "num_layers": family.num_layers(model.config),
        "num_neurons": family.total_neurons(model.config),
        "weight_hash": checkpoint_hash(model),
        **({} if tokenizer is None else {"tokenizer": dict(tokenizer)}),
    }
