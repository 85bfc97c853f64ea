"""Trials that are done, one file each, found again by all that their figures depend on."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.files import acquire, json_sha256, read_json, release, write_json

FORMAT_VERSION = 3
TRIALS_DIR = "trials"


@dataclass(frozen=True)
class Measured:
    """What a trial gave.

    Attributes:
        evaluation: With every window, completion and score: statistics can be made of it again.
        seconds: How long the measuring took, whenever that was.
        is_reused: It was read, not measured now.
    """

    evaluation: Evaluation
    seconds: float
    is_reused: bool


class TrialStore:
    """A directory of trials, `<sha256 of its key>.json` each. Several runs may share it; a file is whole or not there.

    Args:
        directory: Made when the first trial is measured.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def measure(self, key: Mapping[str, Any], run: Callable[[], Evaluation]) -> Measured:
        """Read a trial that is done; else measure it, and keep it. Every rank must call, with the same key.

        A run that finds another one at the same trial waits for it.

        Args:
            key: All that the figures depend on, as JSON values.
            run: Measures; an error leaves nothing behind.
        """
        name = json_sha256(key)
        with ExitStack() as alone:  # rank 0's holds the lock
            known = from_rank_zero(lambda: self._claim(name, alone))
            if known is not None:
                return known
            begun = time.perf_counter()
            evaluation = run()
            measured = Measured(evaluation, time.perf_counter() - begun, is_reused=False)
            from_rank_zero(lambda: self._save(name, key, measured))
        return measured

    def path(self, name: str) -> Path:
        """Where a trial of this name lies, or will."""
        return self.directory / f"{name}.json"

    def _claim(self, name: str, alone: ExitStack) -> Measured | None:
        """The trial; where it is not done, a lock until it is."""
        known = self._load(name)
        if known is None:
            alone.enter_context(locked(self.directory / f".{name}.lock"))
            known = self._load(name)
        return known

    def _load(self, name: str) -> Measured | None:
        """None where the trial was not done, or its file is damaged."""
        try:
            content = read_json(self.path(name), "trial")
            if json_sha256(content["key"]) != name:
                return None
            return Measured(Evaluation.from_json(content["evaluation"]), float(content["seconds"]), is_reused=True)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _save(self, name: str, key: Mapping[str, Any], measured: Measured) -> None:
        content = {"key": key, "seconds": measured.seconds, "evaluation": measured.evaluation.to_json()}
        write_json(self.path(name), content)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock; where another run holds it, say so and wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = acquire(path)
    except Timeout:
        print(f"another run measures the same: waiting for it ({path})", flush=True)
        lock = acquire(path, blocking=True)
    try:
        yield
    finally:
        release(lock)
