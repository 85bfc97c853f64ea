"""What the benchmarks measure with: wall time, and the bytes of live tensors."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call, until the GPU is done where there is one."""
    _wait()
    start = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes(function: Callable[[], Any], model: torch.nn.Module) -> int:
    """Peak bytes on the GPU during one call, all that was there before included; on a CPU weights and live tensors."""
    if not torch.cuda.is_available():
        return live_bytes(function) + sum(parameter.nbytes for parameter in model.parameters())
    torch.cuda.reset_peak_memory_stats()
    function()
    return torch.cuda.max_memory_allocated()


class _LiveTensors(TorchDispatchMode):
    """Follows every storage that an operation returns, until nobody holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if _is_tensor(tensor)}
        for tensor in tree_leaves(result):
            if _is_tensor(tensor) and (storage := tensor.untyped_storage())._cdata not in given:
                # A view of something given is nothing new; a new storage may reuse a dead one's address.
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def live_bytes(function: Callable[[], Any]) -> int:
    """Peak bytes of the tensors alive during one call, those it was given (the model's weights) left out.

    Workspace inside an operation is not seen.
    """
    with _LiveTensors() as live:
        result = function()
    del result
    return live.peak
