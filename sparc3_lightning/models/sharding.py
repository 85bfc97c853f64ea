"""Sharded models (FSDP2): loaded shard by shard, and written from every rank's part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sparc3_lightning.distributed.owners import gather_to_owner
from sparc3_lightning.distributed.ranks import (
    check_same_on_every_rank,
    from_rank_zero,
    is_rank_zero,
    raise_together,
    rank_and_world_size,
    world_size,
)
from sparc3_lightning.files import check_visible, write_text
from sparc3_lightning.models.checkpoint import Checkpoint, fetch_checkpoint
from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.identity import hash_in_hand
from sparc3_lightning.models.load import DtypeName, give_memory, torch_dtype

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy


def data_parallel_mesh(strategy: Strategy, mesh: DeviceMesh | None) -> DeviceMesh | None:
    """The mesh to shard over, or None where the strategy does not shard.

    Raises:
        ValueError: The strategy splits tensors as well; Lightning's defaults do so across the node (trap 5). Or it is
            FSDP1, which runs predict steps inside the root's forward pass, where no backward pass can be.
    """
    from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

    if isinstance(strategy, FSDPStrategy):
        raise ValueError(
            "`trainer.strategy` must be `ModelParallelStrategy` (FSDP2) to shard the model, got `FSDPStrategy`. "
            "Use `configs/trainer/fsdp.yaml`."
        )
    if not isinstance(strategy, ModelParallelStrategy) or mesh is None:
        return None
    if mesh["tensor_parallel"].size() != 1:
        raise ValueError(
            f"`tensor_parallel_size` must be 1, got {mesh['tensor_parallel'].size()}. Set both "
            "`trainer.strategy.init_args.data_parallel_size` (devices x num_nodes) and `tensor_parallel_size: 1`."
        )
    return mesh["data_parallel"]


def shard_model(
    model: PreTrainedModel, mesh: DeviceMesh, float32_shards: bool = False, sum_gradients: bool = False
) -> torch.dtype | None:
    """Shard every decoder block, then the rest, over `mesh`.

    Args:
        model: The whole model; afterwards each rank holds its shards.
        mesh: One-dimensional device mesh.
        float32_shards: Weights of half precision are stored in float32 and gathered and computed in their own type:
            relevance accumulates in the type that shards are stored in (traps 6 and 7).
        sum_gradients: Gradients are summed over ranks instead of averaged: relevance is a sum over samples (trap 2).

    Returns:
        The type that is computed in, where it is not the one that is stored.

    Raises:
        ValueError: Float16 with `float32_shards`.

    Source: method.md, section 5.
    """
    compute_dtype: torch.dtype | None = None
    if float32_shards and model.dtype == torch.float16:
        # Its relevance would be the weight's gradient, in float16 before anything is summed: most is below its range.
        raise ValueError(
            "`dtype` must be bfloat16 or float32 for granularity `weight` of a sharded model, got float16: relevance "
            "of one weight is smaller than float16 can hold. Set `model.dtype: bfloat16`."
        )
    if float32_shards and model.dtype == torch.bfloat16:
        compute_dtype = model.dtype
        model.float()
    reduce_dtype = None if compute_dtype is None else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=reduce_dtype)
    for block in get_family(model.config.model_type).block_modules(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    if sum_gradients:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # Both are needed: one alone still averages, or asks gloo for an operation it does not have.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
    return compute_dtype


def reshard(model: PreTrainedModel) -> None:
    """Put every parameter back to its shard: FSDP2 leaves the outermost ones gathered after a forward pass.

    What is then set on a parameter, such as that it wants no gradient, holds for the next pass.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def load_sharded_model(
    name: str,
    shard: Callable[[PreTrainedModel], object],
    device: torch.device,
    revision: str | None = None,
    dtype: DtypeName = "auto",
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """Load a causal language model so that no rank ever holds more of it than its shards.

    Parameters are made without memory, sharded, and filled one by one with the rows that this rank keeps. Every rank
    must call.

    Args:
        name: Hub id or Hugging Face directory, which every rank can read.
        shard: Shards the model, and may change the type of its parameters first; they have no memory yet.
        device: Where the shards live.
        revision: Revision on the hub.
        dtype: Type of the weights; "auto" is the checkpoint's own.
        attn_implementation: Attention implementation.

    Raises:
        OSError, ValueError: As `load_model`; on every rank, whichever met it.
    """
    # The hub is asked once; a node that shares no cache with rank 0's asks again.
    directory = from_rank_zero(lambda: fetch_checkpoint(name, revision))

    def prepare() -> tuple[Checkpoint, PreTrainedModel]:
        checkpoint = Checkpoint.open(name, revision, directory if directory.is_dir() else None)
        return checkpoint, checkpoint.empty_model(torch_dtype(dtype), attn_implementation)

    checkpoint, model = raise_together(prepare, (ValueError, OSError), device)
    shard(model)
    give_memory(model, device)
    raise_together(lambda: checkpoint.fill(model), (ValueError, OSError), device)
    return model.eval()


def shard_built_model(model: PreTrainedModel, shard: Callable[[PreTrainedModel], object]) -> PreTrainedModel:
    """Shard a model with random weights, which every rank has made for itself. Every rank must call.

    Raises:
        ValueError: The ranks' weights differ: their shards would make a model that nobody has.
    """
    check_same_on_every_rank(hash_in_hand(model), "the model's weights (their hash)")
    shard(model)
    return model


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
