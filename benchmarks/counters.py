"""What scaling.py counts with: bytes sent at each collective, bytes held at each allocation."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparc3_lightning.plan.sent import all_gather_bytes, all_reduce_bytes

REGION = "one batch"
"""Name of the profiler's regions in which memory counts."""


class CountSent(TorchDispatchMode):
    """Bytes that this rank sends in each kind of collective, were it done in a ring."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: defaultdict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, _, name = str(func).partition(".")
        if space in ("c10d", "_c10d_functional"):
            kind, num_bytes = _sent(name, args, kwargs)
            self.sent[kind] += num_bytes
        return func(*args, **(kwargs or {}))


def _sent(name: str, args: Any, kwargs: Any) -> tuple[str, float]:
    ranks = torch.distributed.get_world_size()
    smallest = min((leaf.nbytes for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)), default=0)
    if name.startswith(("reduce_.", "gather_.")):  # to one rank, the fourth argument
        return "to owner", 0.0 if args[3] == torch.distributed.get_rank() else smallest
    if "allreduce" in name or "all_reduce" in name:
        return "sum", all_reduce_bytes(smallest, ranks)
    if "reduce_scatter" in name:
        return "reduction", all_gather_bytes(smallest, ranks)
    return ("gathering", all_gather_bytes(smallest, ranks)) if "gather" in name else ("", 0.0)


def held_by(module: nn.Module) -> int:
    """Bytes of a module's parameters, or of its shards of them; shared ones once."""
    tensors = [value.to_local() if isinstance(value, DTensor) else value for value in module.parameters()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def peak_bytes(profile: Any) -> int:
    """Most bytes held during a batch, of those allocated since the profile began."""
    events = list(walk(profile.kineto_results.experimental_event_tree()))
    regions = [(event.start_time_ns, event.end_time_ns) for event in events if event.name == REGION]
    allocations = sorted(
        ((event.start_time_ns, event.extra_fields) for event in events if event.name == "[memory]"),
        key=lambda allocation: allocation[0],
    )
    held: dict[int, int] = {}
    total = peak = 0
    for when, fields in allocations:
        # What an earlier run had allocated may be freed in this one.
        total -= held.pop(fields.ptr, 0)
        if fields.alloc_size > 0:
            held[fields.ptr] = fields.alloc_size
            total += fields.alloc_size
        if any(start <= when <= end for start, end in regions):
            peak = max(peak, total)
    return peak


def walk(events: Any) -> Iterator[Any]:
    """All events below, parents first."""
    for event in events:
        yield event
        yield from walk(event.children)
