"""Whether a run has come to its end, by what it keeps to go on from. No torch."""

from pathlib import Path

FOLDER, STATE_FILE, _CHOOSING = "resume", "state.json", "choosing"


def is_unfinished(log_dir: Path) -> bool:
    """Whether the run of this directory was interrupted, or is going on."""
    return any((log_dir / FOLDER / name).is_file() for name in (STATE_FILE, _CHOOSING))


def mark_unfinished(log_dir: Path) -> None:
    """Let the same command go on in this directory: something is kept there, if no sums yet."""
    (log_dir / FOLDER).mkdir(parents=True, exist_ok=True)
    (log_dir / FOLDER / _CHOOSING).touch()
