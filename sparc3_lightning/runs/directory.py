"""A run's directory: for one run at a time, gone where the run never starts, and where an unfinished run goes on."""

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from sparc3_lightning.files import acquire, load_yaml, read_json, release
from sparc3_lightning.pruning.recipe import RECIPE_FILE, WEIGHT_RECIPE_FILE
from sparc3_lightning.runs.unfinished import FOLDER, is_unfinished
from sparc3_lightning.version import package_versions
from sparc3_lightning.wording import differences

PROVENANCE_FILE = "provenance.json"


def _git(*args: str) -> str | None:
    """What git says of this checkout; None for an installed copy or without git."""
    command = ["git", "-C", str(Path(__file__).parent), *args]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _command() -> list[str]:
    """As one types it: where this machine keeps its programs is no part of it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = Path(sys.argv[0]).name if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"
    return [program, *sys.argv[1:]]


def provenance(world_size: int, run_dir: Path) -> dict[str, Any]:
    """Command, versions, machine and commit, as JSON.

    Args:
        world_size: Number of processes of the run.
        run_dir: The run's directory; what an interrupted run has left there is named under `earlier`.
    """
    commit = _git("rev-parse", "HEAD")
    found = {
        "command": _command(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": package_versions(),
        "commit": commit,
        "uncommitted_changes": None if commit is None else bool(_git("status", "--porcelain")),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "num_threads": torch.get_num_threads(),
        "world_size": world_size,
    }
    path = run_dir / PROVENANCE_FILE
    if path.is_file():
        before = read_json(path)
        found["earlier"] = [*before.pop("earlier", []), before]
    return found


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
    written = ("scores", RECIPE_FILE, WEIGHT_RECIPE_FILE, FOLDER, CONFIG_FILE, PROVENANCE_FILE)
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


# What a config says of the stages after attribution, of other commands, and of how fast data is read.
_NOT_ATTRIBUTION = {
    "model": {"evaluator", "trials_dir", "recipe", "lr", "weight_decay", "betas", "warmup_steps"},
    "data": {
        "price", "evaluation_prompts", "evaluation_text", "train_text", "val_text", "train_batch_size", "block_length",
        "num_workers", "allow_overlap", "train_seed",
    },
}  # fmt: skip


def go_on_in_unfinished(trainer: Trainer, config: Mapping[str, Any]) -> tuple[Path | None, str]:
    """Lead the trainer to the newest unfinished run whose attribution is configured alike and which is not at work.

    Args:
        trainer: A trainer that has not started; its logger is given the run's version.
        config: This run's config.

    Returns:
        The run's directory, or None; and why the newest unfinished run is not it, empty where there is none.

    Raises:
        ValueError: The logger's version is fixed, and its directory's unfinished run is another one.
    """
    logger = trainer.logger
    if not isinstance(logger, (TensorBoardLogger, CSVLogger)) or logger._version is not None:
        directory = Path(
            getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None) or trainer.default_root_dir
        )
        why_not = _why_not(directory, config)
        if why_not:
            raise ValueError(f"{why_not}. Set another `trainer.logger`.")
        return (None if why_not is None else directory), ""
    reasons = []
    for version in _versions(Path(logger.root_dir)):
        logger._version = version
        why_not = _why_not(Path(logger.log_dir), config)
        if why_not == "":
            return Path(logger.log_dir), ""
        reasons += [why_not] if why_not else []
    logger._version = None
    return None, next(iter(reasons), "")


def _versions(root: Path) -> list[int]:
    """Numbers of the directories `version_N`, newest first."""
    names = [path.name.removeprefix("version_") for path in root.glob("version_*")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def _why_not(directory: Path, config: Mapping[str, Any]) -> str | None:
    """Why the run cannot go on there: empty where it can, None where no unfinished run is there."""
    if not is_unfinished(directory):
        return None
    try:
        release(lock(directory))
    except BlockingIOError as error:
        return str(error)
    path = directory / CONFIG_FILE
    if not path.is_file():
        return f"{directory} is unfinished, but has no {CONFIG_FILE}"
    theirs = load_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(theirs, Mapping):
        return f"{directory} is unfinished, but its {CONFIG_FILE} holds no config"
    changed = differences(attribution_config(theirs), attribution_config(config))
    return changed and f"{directory} is unfinished, but {changed}"


def attribution_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says that decides scores.

    Where and on how many processes it runs is left to the fingerprint, which knows what `auto` has become.
    """
    chosen: dict[str, Any] = {
        room: {key: value for key, value in (config.get(room) or {}).items() if key not in left_out}
        for room, left_out in _NOT_ATTRIBUTION.items()
    }
    return {**chosen, "seed_everything": config.get("seed_everything")}
