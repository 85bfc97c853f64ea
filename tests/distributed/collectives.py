"""What a block of code sends between processes, collective by collective."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# By the names of torch's own operators, whatever the function of torch.distributed that asks for them.
_KINDS = {
    "reduce_scatter": "reduce_scatter", "allgather": "all_gather", "allreduce": "all_reduce",
    "broadcast": "broadcast", "gather": "gather", "reduce": "reduce",
}  # fmt: skip


class Collectives(TorchDispatchMode):
    """Counts collectives, and the bytes of the full tensor of each: gathered, or to be reduced."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            kind = next((kind for part, kind in _KINDS.items() if part in func.__name__), None)
            if kind is not None:
                self.counts[kind] += 1
                self.bytes[kind] += max(tensor.nbytes for tensor in _tensors(args))
        return func(*args, **(kwargs or {}))


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
