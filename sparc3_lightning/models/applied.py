"""Weights changed for a while, and put back bit for bit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sparc3_lightning.distributed.owners import own_part


@dataclass(frozen=True)
class Part:
    """What this rank holds of one parameter: all of it, or the rows (dim 0) or columns (dim 1) of neurons.

    Attributes:
        local: This rank's part of the parameter.
        dim: 0 for rows, 1 for columns.
        indices: Which of its rows or columns.
        is_mine: Of the rows or columns asked for, which this rank holds.
        is_sharded: Other ranks may hold the others.
    """

    local: Tensor
    dim: int = 0
    indices: Tensor | None = None
    is_mine: Tensor | None = None
    is_sharded: bool = False

    def read(self) -> Tensor:
        """A copy of its values."""
        return self.local.clone() if self.indices is None else self.local.index_select(self.dim, self.indices)

    def write(self, values: Tensor) -> None:
        """Set its values."""
        if self.indices is None:
            self.local.copy_(values)
        else:
            self.local.index_copy_(self.dim, self.indices, values)


@dataclass(frozen=True)
class Elements(Part):
    """What this rank holds of single weights of a layer.

    Attributes:
        indices: Their rows, among those this rank holds, and
        columns: Their columns.
    """

    columns: Tensor | None = None

    def read(self) -> Tensor:
        """A copy of their values."""
        return self.local[self.indices, self.columns]

    def write(self, values: Tensor) -> None:
        """Set their values."""
        self.local[self.indices, self.columns] = values


def local_elements(weight: Tensor, indices: Tensor) -> Elements:
    """Those of a layer's weights that this rank holds; all of them where nothing is sharded.

    Args:
        weight: The layer's, as (O, I).
        indices: Which: row * I + column.
    """
    (local, rows), (_, columns) = own_part(weight, 0), own_part(weight, 1)
    indices = indices.to(local.device)
    row, column = indices // weight.shape[1], indices % weight.shape[1]
    inside = (row >= rows.start) & (row < rows.stop) & (column >= columns.start) & (column < columns.stop)
    is_sharded = isinstance(weight, DTensor)
    return Elements(local, 0, row[inside] - rows.start, inside, is_sharded, columns=column[inside] - columns.start)


def local_part(parameter: Tensor, dim: int, indices: Sequence[int]) -> Part:
    """The part of the parameter's rows or columns that this rank holds; all of it where nothing is sharded."""
    local, own = own_part(parameter, dim)
    positions = torch.tensor(indices, device=local.device)
    inside = (positions >= own.start) & (positions < own.stop)
    return Part(local, dim, positions[inside] - own.start, inside, isinstance(parameter, DTensor))


class Applied:
    """Weights that were changed; `restore`, or the end of the `with` block, puts every one back bit for bit."""

    def __init__(self) -> None:
        self._saved: list[tuple[Part, Tensor]] = []

    @torch.no_grad()
    def remove(self, part: Part) -> None:
        """Make a part zero, whatever it holds, and remember it."""
        values = part.read()
        self._saved.append((part, values))
        part.write(torch.zeros_like(values))

    @torch.no_grad()
    def scale(self, part: Part, factors: Tensor) -> None:
        """Multiply each row or column of a part by a factor of its own, and remember it.

        Shape: factors (N,), of all N rows or columns that were asked for, on any rank.
        """
        assert part.is_mine is not None
        values = part.read()
        self._saved.append((part, values))
        # Half precision would round the factor, too.
        dtype = torch.promote_types(values.dtype, torch.float32)
        mine = factors.to(values.device, dtype)[part.is_mine]
        part.write((values.to(dtype) * (mine if part.dim else mine[:, None])).to(values.dtype))

    @torch.no_grad()
    def zero(self, weight: Tensor, mask: Tensor) -> None:
        """Zero the masked weights of one layer, and remember all of them.

        Shape: this rank's rows of the weight, and their mask: (O, I).
        """
        whole = Part(weight)
        self._saved.append((whole, whole.read()))
        weight.masked_fill_(mask.to(weight.device), 0.0)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the weights back; a second call changes nothing."""
        # The last first: what was changed twice is then as it was before the first time.
        for part, values in reversed(self._saved):
            part.write(values)
        self._saved = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()


@contextmanager
def all_or_nothing() -> Iterator[Applied]:
    """Weights that are being changed; an error leaves the model as it was."""
    applied = Applied()
    try:
        yield applied
    except BaseException:
        applied.restore()
        raise
