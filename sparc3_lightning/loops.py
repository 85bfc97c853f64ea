"""What a long loop counts, and how far it has come in lines: for output that no bar can be drawn on."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""`progress(items, total, description)` wraps an iterable of known length and yields its items."""


def no_progress(items: Iterable[T], total: int, description: str) -> Iterable[T]:
    """The silent progress."""
    return items


def _one(item: object) -> int:
    return 1


@dataclass(frozen=True)
class Counted(Generic[T]):
    """Items of a loop that knows what it counts; given to a `Progress` in place of the bare items.

    Attributes:
        items: What the loop goes through.
        unit: What is counted, in the plural: "windows".
        total: How many of them there are, on this rank.
        size: How many of them an item is.
    """

    items: Iterable[T]
    unit: str
    total: int
    size: Callable[[T], int] = _one

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type] # of a generator Python itself says that it has none


class Stage:
    """A loop in progress; see `Lines.begin`."""

    def __init__(self, lines: "Lines", description: str, total: int | None, unit: str, done: int) -> None:
        self._lines, self._description, self._total, self._unit = lines, description, total, unit
        self._done = self._said = done
        self._said_at = lines.clock()

    def advance(self, num: int = 1) -> None:
        """Count so many units more; a line where the last one is a minute old."""
        self._done += num if self._total is None else min(num, self._total - self._done)  # a batch may be padded
        now = self._lines.clock()
        if now - self._said_at >= self._lines.every:
            # The rate since the last line: what an earlier run has measured comes at once, and foretells nothing.
            per_second = (self._done - self._said) / (now - self._said_at)
            self._lines.write(f"{self._description}: {how_far(self._done, self._total, self._unit, per_second)}")
            self._said, self._said_at = self._done, now


class Lines:
    """Says how far loops have come: a line when one starts, then at most one a minute.

    A loop inside another one has no line at its start: the other may run it a hundred times.

    Args:
        write: Takes a line; default: standard error.
        clock: Gives the time, in seconds.
        every: Least time between two lines of a loop, in seconds.
    """

    def __init__(
        self,
        write: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        every: float = 60.0,
    ) -> None:
        self.write, self.clock, self.every = write or to_standard_error, clock, every
        self.depth = 0
        """How many loops the next one lies in."""

    def begin(self, description: str, total: int | None, unit: str, done: int = 0) -> Stage:
        """Start a loop, and say so.

        Args:
            description: What the loop does.
            total: How many units there are; None where nobody knows.
            unit: What they are, in the plural.
            done: How many were done before, by a run that was interrupted.
        """
        if self.depth == 0:
            before = f", {done:,} of them done before" if done else ""
            self.write(description if total is None else f"{description}: {total:,} {unit}{before}")
        return Stage(self, description, total, unit, done)

    def watch(self, items: Iterable[T], total: int, description: str) -> Iterator[T]:
        """Yield the items, and say how far they have come: a `Progress`."""
        counted = items if isinstance(items, Counted) else Counted(items, "batches", total)
        stage = self.begin(description, counted.total, counted.unit)
        self.depth += 1
        try:
            for item in counted:
                yield item
                stage.advance(counted.size(item))
        finally:
            self.depth -= 1


def to_standard_error(line: str) -> None:
    """Write a line where it is seen at once, and results are not."""
    print(line, file=sys.stderr, flush=True)


def how_far(done: int, total: int | None, unit: str, per_second: float) -> str:
    """Count, rate and time left: "120 of 300 candidates, 2.1 per s, 1:26 left"."""
    count = f"{done:,} {unit}" if total is None else f"{done:,} of {total:,} {unit}"
    if not per_second > 0:
        return count
    left = "" if total is None else f", {duration((total - done) / per_second)} left"
    return f"{count}, {rate(per_second)}{left}"


def rate(per_second: float) -> str:
    """A rate in the unit of time in which it is at least 1, hours at most."""
    unit, factor = next(((u, f) for u, f in (("s", 1), ("min", 60)) if per_second * f >= 1), ("h", 3600))
    value = per_second * factor
    return f"{value:,.{1 if value < 100 else 0}f} per {unit}"


def duration(seconds: float) -> str:
    """Minutes and seconds, "1:26"; from an hour on hours too, "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
