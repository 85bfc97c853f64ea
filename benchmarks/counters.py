"""What scaling.py counts with: bytes sent at each collective, bytes held after each operation.

Both look at what is called, never at the allocator: gloo copies what it reduces, and its own threads free these copies
whenever they come to it, so that a count of allocations depends on how busy the machine is.
"""

import time
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._C import _distributed_c10d as c10d
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sparc3_lightning.plan.memory import all_gather_bytes, all_reduce_bytes


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


class CountHeld(TorchDispatchMode):
    """Most bytes that tensors held after any operation: of all storages that one has read or written, and that live.

    What an operation holds only while it runs is not seen: it is the kernel's, and another device's differs.

    Attributes:
        peak: The most since it was last set to 0.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._live = weakref.WeakSet(local(value).untyped_storage() for value in module.parameters())
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        run = _alone if str(func).startswith("c10d.") else _as_is
        found = run(func, args, kwargs or {})
        leaves = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, torch.Tensor)]
        # On the meta device there are shapes only.
        self._live.update(local(leaf).untyped_storage() for leaf in leaves if not leaf.is_meta)
        self.peak = max(self.peak, sum(storage.nbytes() for storage in self._live))
        return found


def local(value: torch.Tensor) -> torch.Tensor:
    """A tensor, or this rank's shard of it."""
    return value.to_local() if isinstance(value, DTensor) else value


def _as_is(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _alone(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """A collective that is over, and whose tensors no thread of gloo's holds, when it returns.

    gloo tells that it is done before it lets go of them. So it gets aliases, and these are waited for.
    """
    tensors: dict[int, torch.Tensor] = {}

    def alias(tensor: torch.Tensor) -> torch.Tensor:
        made = tensor.detach()
        tensors[id(made)] = tensor
        waited.append(weakref.ref(made))
        return made

    waited: list[weakref.ref[torch.Tensor]] = []
    found = func(*tree_map_only(torch.Tensor, alias, args), **tree_map_only(torch.Tensor, alias, kwargs))
    found = tree_map_only(torch.Tensor, lambda made: tensors[id(made)], found)
    found = tree_map_only(torch.ScriptObject, _waited_for, found)
    while any(made() is not None for made in waited):
        time.sleep(1e-4)
    return found


def _waited_for(work: Any) -> Any:
    """What stands for a collective that is over, and holds nothing of it."""
    c10d.Work.unbox(work).wait()
    over: torch.futures.Future[Any] = torch.futures.Future()
    over.set_result([])
    return c10d._create_work_from_future(over).boxed()
