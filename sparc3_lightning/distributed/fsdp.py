"""FSDP2: shard a model by decoder block, and make its gradient reduction carry relevance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel

from sparc3_lightning.families import get_family
from sparc3_lightning.lrp.attribution import Attribution

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


def check_accumulates(attribution: Attribution) -> None:
    """Refuse to accumulate relevance in shards of half precision (traps 6 and 7).

    Raises:
        ValueError: The shards are of half precision: `trainer.precision` converts them after they were made.
    """
    dtype = attribution.model.dtype
    if attribution.reduced_by_fsdp and dtype.itemsize < 4:
        raise ValueError(
            f"`trainer.precision` must leave the shards in float32, in which relevance is summed, got {dtype}. Set "
            "`trainer.precision: 32-true` and `model.dtype: bfloat16`: stored in float32, computed in bfloat16."
        )
