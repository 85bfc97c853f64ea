"""Write a sharded model's weights as Hugging Face files: each file by one rank, so that none holds the whole model."""

import json
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sparc3_lightning.distributed.owners import gather_to_owner
from sparc3_lightning.distributed.ranks import is_rank_zero, raise_together, rank_and_world_size, world_size
from sparc3_lightning.files import check_visible, write_text

MAX_SHARD_SIZE = "5GB"
_PATTERN = "model{suffix}.safetensors"


def write_weight_files(model: PreTrainedModel, directory: Path, dtype: torch.dtype) -> None:
    """Write all weights, and an index where there are several files. Every rank must call.

    A file's tensors are gathered one by one on the rank that writes it, on the CPU: at most `MAX_SHARD_SIZE` there.

    Args:
        model: Sharded (FSDP2).
        directory: It is there already, on a file system that all ranks share.
        dtype: Type of the written weights.

    Raises:
        OSError: A file cannot be written. On every rank.
    """
    weights = stored_weights(model)
    empty = {name: torch.empty(weight.shape, dtype=dtype, device="meta") for name, weight in weights.items()}
    split = split_torch_state_dict_into_shards(empty, filename_pattern=_PATTERN, max_shard_size=MAX_SHARD_SIZE)
    for number, (file, names) in enumerate(split.filename_to_tensors.items()):
        owner = number % world_size()
        tensors = {name: _whole(weights[name].to(dtype), owner) for name in names}
        mine = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        raise_together(lambda path=directory / file, mine=mine: _write(path, mine), OSError, model.device)  # type: ignore[misc]
    if split.is_sharded and is_rank_zero():
        metadata = {"total_parameters": model.num_parameters(), **split.metadata}
        index = {"metadata": metadata, "weight_map": split.tensor_to_filename}
        write_text(directory / "model.safetensors.index.json", json.dumps(index, indent=2, sort_keys=True) + "\n")


def stored_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights that a model's files hold: a shared one once.

    Args:
        model: Whole or sharded.
    """
    tied = model.all_tied_weights_keys if model.config.tie_word_embeddings else {}
    return {name: weight.detach() for name, weight in model.state_dict().items() if name not in tied}


def _whole(weight: Tensor, owner: int) -> Tensor | None:
    if isinstance(weight, DTensor):
        return gather_to_owner(weight, owner)
    return weight.cpu() if rank_and_world_size()[0] == owner else None


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    if not tensors:
        return
    check_visible([path.parent])
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
