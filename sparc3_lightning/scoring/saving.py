"""Write one score directory from all ranks, whole or not at all; read those that an interrupted run has written."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from sparc3_lightning.distributed.owners import share_out
from sparc3_lightning.distributed.ranks import (
    from_rank_zero,
    gather_objects,
    is_rank_zero,
    raise_together,
    rank_and_world_size,
)
from sparc3_lightning.files import check_visible, new_directory
from sparc3_lightning.scoring.lazy import LazyScores
from sparc3_lightning.scoring.manifest import read_manifest
from sparc3_lightning.scoring.score_set import ScoreFile, ScoreSet, plan_files, write_index_and_manifest
from sparc3_lightning.wording import differences


def save_together(
    score_set: ScoreSet, directory: Path, device: torch.device, max_shard_size: str | int = "5GB"
) -> ScoreSet:
    """Write a score directory: every rank the modules that it has, rank 0 index and manifest. Every rank must call.

    The files hold whole modules, so that one process, or another number of them, reads the directory like any other.

    Args:
        score_set: This rank's part of the scores, with the same manifest on every rank; lazy scores are whole on every
            rank, which makes and writes its share of them.
        directory: New directory, on a file system that all ranks share.
        device: Where the ranks' backend communicates from.
        max_shard_size: Largest safetensors file.

    Returns:
        The set to go on with: of weights the whole one, read from the directory module by module, on every rank; of
        neurons this one.

    Raises:
        ValueError: NaN or Inf, or negative scores where the sign is "abs". On every rank, and nothing is left.
        OSError: The directory holds something already, or a file cannot be written. On every rank, nothing is left.
    """
    part = _part(score_set)
    # Only rank 0's stack holds the directory: it is renamed, or after any error removed, once.
    with ExitStack() as stack:
        temporary = from_rank_zero(lambda: stack.enter_context(new_directory(directory)))
        groups = plan_files(part.shapes, max_shard_size)
        counts = gather_objects([len(groups)])
        first = sum(counts[: rank_and_world_size()[0]])

        def write() -> list[ScoreFile]:
            check_visible([temporary] if groups else [])
            return part.write_files(temporary, groups, first, sum(counts))

        files = gather_objects(raise_together(write, (ValueError, OSError), device))

        def complete() -> None:
            check_visible([temporary / file.name for file in files])
            write_index_and_manifest(temporary, part.manifest, files)
            stack.close()

        from_rank_zero(complete)
    return part.reopened(directory)


def share_summaries(sets: Sequence[ScoreSet]) -> None:
    """Let every rank know what some rank knows of the modules that it has seen. Every rank must call.

    Args:
        sets: The same on every rank; of those that are not read module by module nothing is shared.
    """
    lazy = [score_set.scores for score_set in sets if isinstance(score_set.scores, LazyScores)]
    for known in gather_objects([[scores.known for scores in lazy]]):
        for scores, theirs in zip(lazy, known, strict=True):
            scores.known.update(theirs)


def _part(score_set: ScoreSet) -> ScoreSet:
    """What of the set this rank writes; of weights what was seen of each module is kept when the scores are not."""
    options = score_set.manifest.get("options")
    if not isinstance(score_set.scores, LazyScores):
        is_large = options is not None and options["granularity"] == "weight"
        scores = LazyScores(score_set.shapes, score_set.scores.__getitem__) if is_large else score_set.scores
        return ScoreSet(scores, score_set.manifest)
    rank, num_ranks = rank_and_world_size()
    owners = share_out({name: math.prod(shape) for name, shape in score_set.shapes.items()}, num_ranks)
    mine = [name for name, owner in owners.items() if owner == rank]
    return ScoreSet(score_set.scores.only(mine), score_set.manifest)


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
