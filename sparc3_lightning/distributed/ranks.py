"""What several processes do together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from itertools import count
from typing import TypeVar, cast

import torch
from torch.distributed.distributed_c10d import _get_default_store

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_FOR_ALL = "_sparc3_raised_by_all_ranks"
# How long a rank waits before it asks again: signals are heard in between.
_POLL = timedelta(seconds=1)
_calls = count()
_alone = ContextVar("_alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process is the only one, as if torch.distributed were not in use."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def is_distributed() -> bool:
    """Whether there are other processes to work with: torch.distributed is in use, and this is not `alone`."""
    return torch.distributed.is_initialized() and not _alone.get()


def world_size() -> int:
    """Number of processes; 1 where torch.distributed is not in use."""
    return torch.distributed.get_world_size() if is_distributed() else 1


def rank_and_world_size() -> tuple[int, int]:
    """This process's rank and the number of processes; 0 and 1 where torch.distributed is not in use."""
    return (torch.distributed.get_rank() if is_distributed() else 0), world_size()


def is_rank_zero() -> bool:
    """Whether this process is the one that writes."""
    return rank_and_world_size()[0] == 0


def from_rank_zero(function: Callable[[], T]) -> T:
    """Run `function` on rank 0 and give its result, or its error, to every rank: nobody waits for one that failed.

    However long it takes: the limit of the process group is no limit here. An exit is every rank's too: rank 0 was
    told to stop.
    """
    if world_size() == 1:
        return function()
    outcome: list[object] = [None, None]
    store, done = _get_default_store(), f"sparc3/rank_zero/{next(_calls)}"
    if is_rank_zero():
        try:
            outcome[0] = function()
        except (Exception, SystemExit) as error:
            outcome[1] = error
        store.set(done, "")
    else:
        # Not in a collective, which would end after the group's limit. Where the store is gone, so is the job.
        while not store.check([done]):
            with suppress(torch.distributed.DistStoreError):
                store.wait([done], _POLL)
    torch.distributed.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[1], (Exception, SystemExit)):
        raise _for_all(outcome[1])
    return cast(T, outcome[0])


def _for_all(error: E) -> E:
    setattr(error, _FOR_ALL, True)
    return error


def is_raised_by_all(error: Exception) -> bool:
    """Whether every rank raises this error at the same place, so that who catches it goes on together with the others.

    Of any other nobody knows: another rank may wait in a collective for the one that raised it.
    """
    return world_size() == 1 or hasattr(error, _FOR_ALL)


def raise_together(
    function: Callable[[], T], expected: type[Exception] | tuple[type[Exception], ...], device: torch.device
) -> T:
    """Run `function` on every rank; what one rank raises is raised by all, so that nobody waits for a rank that left.

    Args:
        function: Raises `expected` only after the last step that it takes together with other ranks.
        expected: The errors to share; any other leaves this rank at once, and the launcher ends the others.
        device: Where the ranks' backend communicates from.

    Raises:
        Exception: The error of the first rank that failed, which it names.
    """
    outcome: T | None = None
    failure: Exception | None = None
    try:
        outcome = function()
    except expected as error:
        failure = error
    if world_size() > 1:
        num_failures = torch.tensor(int(failure is not None), device=device)
        torch.distributed.all_reduce(num_failures)
        if num_failures.item():
            failures = enumerate(gather_objects([failure]))
            rank, first = next((rank, error) for rank, error in failures if error is not None)
            kinds = expected if isinstance(expected, tuple) else (expected,)
            failure = _for_all(next(kind for kind in kinds if isinstance(first, kind))(f"on rank {rank}: {first}"))
    if failure is not None:
        raise failure
    return cast(T, outcome)


def check_same_on_every_rank(value: object, what: str) -> None:
    """Refuse to go on where the ranks do not agree.

    Raises:
        ValueError: They do not; on every rank.
    """
    values = gather_objects([value])
    other = next((rank for rank, theirs in enumerate(values) if theirs != values[0]), None)
    if other is not None:
        raise ValueError(
            f"{what} must be the same on every rank, got {values[0]!r} on rank 0 and {values[other]!r} on rank "
            f"{other}. Give every rank the same files, and set `seed_everything`."
        )


def gather_objects(mine: list[T]) -> list[T]:
    """All ranks' items on every rank, rank by rank."""
    if world_size() == 1:
        return mine
    parts: list[list[T]] = [[] for _ in range(world_size())]
    torch.distributed.all_gather_object(parts, mine)
    return [item for part in parts for item in part]


def any_rank(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Which of the flags is up on any rank; every rank must ask.

    Args:
        flags: This rank's.
        device: Where the ranks' backend communicates from.
    """
    if world_size() == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.int32, device=device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]
