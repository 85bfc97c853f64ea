"""SIGTERM, SIGUSR1 and Ctrl-C: a flag at first, read between batches; nothing is saved inside a signal handler."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

from torch.utils.data import get_worker_info

from sparc3_lightning.distributed.ranks import is_rank_zero

EXIT_CODE = os.EX_TEMPFAIL
"""Exit code of a run that was told to stop: 75, "try again later". The same command goes on with it."""

STOP_FILE = "SPARC3_STOP_FILE"
"""Environment variable: a file that is made when a signal comes, for a launcher whose exit code may be another's."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

_HINT = b"\nsparc3: told to stop: the batch in progress is finished and saved. Ctrl-C once more stops at once.\n"

_Handler = Callable[[int, FrameType | None], Any] | int | None


class StopSignals:
    """Notes the signals that ask a run to stop, inside a `with` block.

    SLURM sends SIGUSR1 some time before the limit (`--signal`) and SIGTERM at preemption, clouds send SIGTERM. Ctrl-C
    is SIGINT; a second one is a KeyboardInterrupt again.

    Attributes:
        received: Name of the first signal that came, or None.
        at_once: Where nothing is left to be saved, a signal ends the process with `EXIT_CODE` on the spot.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.at_once = False
        self._previous: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            # Who has set another one since, Lightning at a run's end, has it as it should be.
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)
        self._previous = {}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Meanwhile nobody else hears the signals: Lightning's own handler talks to the other ranks from inside."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.received is not None:
                raise KeyboardInterrupt
            if not self.at_once and is_rank_zero() and get_worker_info() is None:
                os.write(2, _HINT)  # `print` may be what was interrupted
        self.received = self.received or signal.Signals(number).name
        if os.environ.get(STOP_FILE):
            with suppress(OSError):
                Path(os.environ[STOP_FILE]).touch()
        if self.at_once:
            raise SystemExit(EXIT_CODE)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Meanwhile SIGTERM ends the process, as it does without Lightning.

    Lightning's handler notes the signal for its training loop and then calls the handler that it found; while it
    evaluates nobody reads the note.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # as a shell says it of a process that the signal has ended


def end_children(launcher: object) -> None:
    """End the processes that Lightning itself has started, and keep its observer from ending this one for it."""
    children = getattr(launcher, "procs", [])
    for child in children:
        child.kill()
    children.clear()
