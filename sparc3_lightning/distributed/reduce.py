"""From one rank's sums to the scores of a reference set."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sparc3_lightning.distributed.ranks import from_rank_zero, gather_objects, is_rank_zero, sum_over_ranks
from sparc3_lightning.lrp.attribution import Attribution
from sparc3_lightning.scores.checks import check_scores


@dataclass(frozen=True)
class Reduced:
    """Scores of a reference set: mean relevance over its samples, and the token explained for each sample."""

    scores: dict[str, Tensor]
    target_ids: list[int]


def reduce_scores(attribution: Attribution, seen: Sequence[tuple[int, int]], num_samples: int) -> Reduced | None:
    """Mean over the real samples of all ranks.

    Args:
        attribution: What accumulated on this rank; its sums are overwritten.
        seen: Index and explained token of each real sample of this rank.
        num_samples: Samples in the reference set.

    Returns:
        The scores on the CPU, in the accumulators' type; None on the other ranks.

    Raises:
        ValueError: Samples are missing or came twice; or scores that `check_scores` refuses.
    """
    everyone = dict(sorted(gathered := gather_objects(list(seen))))
    if len(gathered) != num_samples or list(everyone) != list(range(num_samples)):
        raise ValueError(
            f"every one of {num_samples} samples must be attributed once, got {len(gathered)} attributions of "
            f"{len(everyone)} samples. Leave `trainer.limit_predict_batches` at 1.0 and `use_distributed_sampler` "
            "false."
        )
    scores: dict[str, Tensor] = {}
    for name, total in attribution.sums().items():
        full = sum_over_ranks(total, attribution.reduced_by_fsdp)
        if is_rank_zero():
            scores[name] = full.cpu() / num_samples
    from_rank_zero(lambda: check_scores(scores, attribution.sign, attribution.names))
    return Reduced(scores, list(everyone.values())) if is_rank_zero() else None
