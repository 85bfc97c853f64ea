"""Work split over processes: nothing repeated, nothing dropped, the same number of steps everywhere.

A sharded model needs every rank in every forward pass. So each rank gets the same number of items, and the fill is
None: work to be done and forgotten.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""`progress(items, total, description)` wraps an iterable of known length and yields its items."""


def no_progress(items: Iterable[T], total: int, description: str) -> Iterable[T]:
    """The silent progress."""
    return items


def share(items: Sequence[T], rank: int, world: int) -> list[T | None]:
    """This rank's items, dealt out in turn.

    Args:
        items: the same list on every rank.
        rank: this rank.
        world: number of ranks.

    Returns:
        ceil(len(items) / world) items; None fills what is missing.
    """
    mine: list[T | None] = list(items[rank::world])
    return mine + [None] * (-(-len(items) // world) - len(mine))
