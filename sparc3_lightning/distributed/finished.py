"""What an interrupted run has finished: scores are read back, later stages are done again."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparc3_lightning.distributed.ranks import from_rank_zero, is_rank_zero, raise_together
from sparc3_lightning.distributed.state import differences
from sparc3_lightning.scoring.manifest import read_manifest
from sparc3_lightning.scoring.score_set import ScoreSet


def read_finished(log_dir: Path, fingerprint: Mapping[str, Any], device: torch.device) -> dict[str, ScoreSet]:
    """Read the scores that an interrupted run has written. Every rank must call.

    Args:
        log_dir: The run's directory.
        fingerprint: `weights`, `options` and, for each reference set, `samples` that its scores must be of.
        device: Where the ranks' backend communicates from.

    Returns:
        Each set that has any, as the score writer leaves it: weights are read module by module, neurons are on rank 0.

    Raises:
        ValueError: Scores of something else, or a truncated or changed file. On every rank.
        OSError: A file of them is missing. On every rank.
    """

    def check() -> list[str]:
        names = [name for name in fingerprint["samples"] if (log_dir / "scores" / name).exists()]
        for name in names:
            read_manifest(log_dir / "scores" / name)
        return names

    # All bytes of all files are hashed: the others wait for that however long it takes.
    names = from_rank_zero(check)

    def read() -> dict[str, ScoreSet]:
        return {name: _read(log_dir / "scores" / name, fingerprint, name) for name in names}

    return raise_together(read, (ValueError, OSError), device)


def _read(directory: Path, fingerprint: Mapping[str, Any], name: str) -> ScoreSet:
    stored = ScoreSet.open(directory, check_files=False)
    manifest = stored.manifest
    given = {
        "weights": manifest.get("base_model", {}).get("weight_hash"),
        "options": manifest.get("options"),
        "samples": manifest.get("data", {}).get("token_hash"),
    }
    wanted = {key: fingerprint[key] for key in ("weights", "options")} | {"samples": fingerprint["samples"][name]}
    changed = differences(given, wanted)
    if changed:
        raise ValueError(f"{directory} is not of this run: {changed}. Remove it, and it is made again.")
    if fingerprint["options"]["granularity"] == "weight":
        return stored
    return ScoreSet(dict(stored.scores) if is_rank_zero() else {}, manifest)


def forget_later_stages(log_dir: Path) -> None:
    """Make room for selection and evaluation, which are done again, and clear away what was half written."""
    half_written = [
        path for room in (".", "scores", "trials", "figures") for path in (log_dir / room).glob(".*.????????.tmp")
    ]
    for path in [log_dir / "scores" / "differential", log_dir / "pruned_model", *half_written]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
