"""A run's directory: inside the log root, for one run at a time, and gone where the run never starts."""

import json
import os
import socket
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from filelock import FileLock, Timeout
from lightning.pytorch.loggers import Logger

from sparc3_lightning.distributed.state import FOLDER, is_unfinished
from sparc3_lightning.files import acquire, release
from sparc3_lightning.provenance import PROVENANCE_FILE
from sparc3_lightning.pruning.recipe import RECIPE_FILE

CONFIG_FILE = "config.yaml"
LOCK_FILE = ".lock"
# What a run writes before it starts: its own, and the logger's.
_FIRST = (CONFIG_FILE, PROVENANCE_FILE, "hparams.yaml", "events.out.tfevents.*")


def check_loggers(loggers: Sequence[Logger]) -> None:
    """Refuse names of runs that lead out of the log root.

    Raises:
        ValueError: A logger's name, version or sub-directory is absolute or holds `..`.
    """
    for logger in loggers:
        for key in ("name", "version", "sub_dir"):
            # `version` itself looks for the next number, on a disk that may not be there yet.
            part = getattr(logger, f"_{key}", None)
            path = PurePath(os.path.expandvars(str(part or "")))
            if path.is_absolute() or ".." in path.parts or str(path).startswith("~"):
                raise ValueError(
                    f"`{key}` of the logger must stay inside its `save_dir`, got {str(part)!r}. "
                    f"Set `trainer.logger.init_args.{key}` without `..`, and `save_dir` to where runs shall be."
                )


def refuse_used(directory: Path, resumes: bool) -> None:
    """One directory, one run: this one's config would replace another's, and its results have no room.

    Args:
        directory: The run's directory.
        resumes: Whether this run may go on in an unfinished one's, or begin again where one was killed at its start.

    Raises:
        FileExistsError: The directory holds what a run writes, or what another has written.
    """
    written = ("scores", RECIPE_FILE, FOLDER, CONFIG_FILE, PROVENANCE_FILE)
    used = [name for name in written if (directory / name).exists()]
    if used and not (resumes and (is_unfinished(directory) or used == [CONFIG_FILE, PROVENANCE_FILE])):
        raise FileExistsError(
            f"{directory} holds another run's {used[0]}. Set `trainer.logger` (each run then gets a directory of its "
            "own), or another `trainer.default_root_dir`."
        )


def standing_directories(root: Path) -> set[Path]:
    """Directories that are there at a log root, above it, and two levels below it (versions, and `sub_dir` in them)."""
    root = root.absolute()
    return {path for path in (root, *root.parents, *root.glob("*"), *root.glob("*/*")) if path.is_dir()}


def lock(directory: Path) -> FileLock:
    """Keep other processes out of a run's directory, until `release` or until this process ends, however it does.

    Args:
        directory: The run's directory; it is made.

    Raises:
        BlockingIOError: Another process has it; says which.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK_FILE
    try:
        held = acquire(path)
    except Timeout as error:
        owner = path.read_text("utf-8") if path.exists() else ""
        raise BlockingIOError(
            f"{directory} is in use by another run ({owner or 'unknown'}). Wait for it, or set another `trainer.logger`"
        ) from error
    path.write_text(json.dumps({"host": socket.gethostname(), "process": os.getpid()}), "utf-8")
    return held


class Claim:
    """A run's claim to its directory: other processes are kept out, and it is taken back where the run never starts.

    Args:
        directory: The run's directory; it is made.

    Raises:
        BlockingIOError: Another process has it; says which.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._lock = lock(directory)
        # Lightning has made the logger, and this process's event file, before any hook.
        ours = f"events.out.tfevents.*.{os.getpid()}.*"
        self._found = {path for path in self._directory.iterdir() if not fnmatchcase(path.name, ours)}

    def release(self) -> None:
        """Let other runs in."""
        release(self._lock)

    def take_back(self, standing: set[Path]) -> None:
        """Leave the disk as it was found, unless more was written than a run writes before it starts.

        Args:
            standing: Directories that were there before the run, as `standing_directories` gives them.
        """
        written = set(self._directory.iterdir()) - self._found
        if all(any(fnmatchcase(path.name, pattern) for pattern in _FIRST) for path in written):
            for path in written:
                path.unlink()
        self.release()
        for path in (self._directory, *self._directory.parents):
            if path in standing or any(path.iterdir()):
                break
            path.rmdir()
