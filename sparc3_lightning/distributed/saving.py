"""Write one score directory from all ranks: whole or not at all."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from sparc3_lightning.distributed.owners import share_out
from sparc3_lightning.distributed.ranks import (
    from_rank_zero,
    gather_objects,
    raise_together,
    rank_and_world_size,
)
from sparc3_lightning.files import new_directory
from sparc3_lightning.scoring.files import ScoreFile, plan_files, write_index_and_manifest
from sparc3_lightning.scoring.lazy import LazyScores
from sparc3_lightning.scoring.score_set import ScoreSet


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
    if not isinstance(part.scores, LazyScores):
        return score_set
    return ScoreSet.open(directory, check_files=False, known=part.scores.known)


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


def check_visible(paths: Sequence[Path]) -> None:
    """Refuse a file system that each node has for itself.

    Raises:
        OSError: What another rank has made is not there.
    """
    for path in paths:
        if not path.exists():
            raise OSError(
                f"{path.parent} must lie on a file system that all ranks share: {path.name}, made by another rank, is "
                "not there. Set `trainer.logger.init_args.save_dir` (or `trainer.default_root_dir`)."
            )
