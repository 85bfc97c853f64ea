"""What a run was made with: command, versions, machine, commit."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from sparc3_lightning.files import read_json
from sparc3_lightning.version import package_versions

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
