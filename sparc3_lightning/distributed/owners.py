"""Whole tensors shared out over ranks: each belongs to one rank, so that none must hold them all."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sparc3_lightning.distributed.ranks import rank_and_world_size


def is_sharded(model: nn.Module) -> bool:
    """Whether ranks hold parts of the model (FSDP2), so that every pass through it needs all of them."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


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
    """The whole of a tensor that is sharded by rows, on its owner's CPU. Every rank must call.

    Shape: as `tensor`, (O, ...).
    """
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
