"""Whole tensors shared out over ranks: each belongs to one rank, so that none must hold them all."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from sparc3_lightning.distributed.ranks import rank_and_world_size


def is_sharded(model: nn.Module) -> bool:
    """Whether ranks hold parts of the model (FSDP2), so that every pass through it needs all of them."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def is_split_by_columns(weight: Tensor) -> bool:
    """Whether this rank holds columns of a weight: one that is stored as (I, O) is sharded by its inputs.

    Shape: weight (O, I).
    """
    placements = weight.placements if isinstance(weight, DTensor) else ()
    return any(isinstance(placement, Shard) and placement.dim == 1 for placement in placements)


def own_part(tensor: Tensor, dim: int = 0) -> tuple[Tensor, slice]:
    """What this rank holds of a tensor, and which of its rows (columns) that is: all where these are not sharded.

    Args:
        tensor: Whole, or sharded in any dimension.
        dim: 0 for rows, 1 for columns.
    """
    data = tensor.detach()
    if not isinstance(data, DTensor):
        return data, slice(0, data.shape[dim])
    shape, offset = compute_local_shape_and_global_offset(data.shape, data.device_mesh, data.placements)
    return data.to_local(), slice(offset[dim], offset[dim] + shape[dim])


def own_rows(weight: Tensor) -> tuple[Tensor, slice]:
    """The rows of a layer's weight that this rank holds, and which they are: all where nothing is sharded.

    Shape: weight (O, I).
    """
    assert not is_split_by_columns(weight)
    return own_part(weight)


def share_out(sizes: Mapping[str, int], world_size: int) -> dict[str, int]:
    """The rank that each tensor belongs to: neighbours together, and about as much on every rank.

    Args:
        sizes: Numbers in each tensor, in an order that is the same on every rank.
        world_size: Number of ranks.
    """
    total, before = sum(sizes.values()), 0
    owners: dict[str, int] = {}
    for name, size in sizes.items():
        owners[name] = (2 * before + size) * world_size // (2 * total)  # by where its middle lies
        before += size
    return owners


def sum_to_owner(tensor: Tensor, owner: int) -> Tensor | None:
    """The sum over ranks of a tensor of each, on its owner's CPU; it is overwritten. Every rank must call."""
    rank, world_size = rank_and_world_size()
    if world_size > 1:
        torch.distributed.reduce(tensor, dst=owner)
    return tensor.cpu() if rank == owner else None


def gather_to_owner(tensor: DTensor, owner: int) -> Tensor | None:
    """The whole of a tensor that is sharded by rows, or by columns, on its owner's CPU. Every rank must call.

    Shape: as `tensor`, (O, ...).
    """
    if is_split_by_columns(tensor):
        transposed = gather_to_owner(cast(DTensor, tensor.t()), owner)
        return None if transposed is None else transposed.t().contiguous()
    rank, world_size = rank_and_world_size()
    num_rows = -(-len(tensor) // world_size)  # of all ranks but the last ones
    mine = tensor.to_local()
    if len(mine) < num_rows:
        mine = torch.cat([mine, mine.new_zeros(num_rows - len(mine), *mine.shape[1:])])
    if rank != owner:
        torch.distributed.gather(mine, dst=owner)
        return None
    whole = mine.new_empty(num_rows * world_size, *mine.shape[1:])
    torch.distributed.gather(mine, list(torch.split(whole, num_rows)), dst=owner)
    return whole[: len(tensor)].cpu()
