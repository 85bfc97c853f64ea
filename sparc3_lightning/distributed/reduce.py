"""From one rank's sums to the scores of a reference set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sparc3_lightning.distributed.owners import gather_to_owner, share_out, sum_to_owner
from sparc3_lightning.distributed.ranks import gather_objects, raise_together, world_size
from sparc3_lightning.lrp.attribution import Attribution
from sparc3_lightning.scoring.checks import check_modules, check_scores
from sparc3_lightning.scoring.score_set import total_relevance


@dataclass(frozen=True)
class Reduced:
    """Scores of a reference set: mean relevance over its samples.

    Attributes:
        scores: This rank's part: of neurons all on rank 0, of weights some modules on each rank; on the CPU, in the
            accumulators' type.
        target_ids: The token explained for each sample.
        total: Sum of all ranks' scores.
    """

    scores: dict[str, Tensor]
    target_ids: list[int]
    total: float


def reduce_scores(attribution: Attribution, seen: Sequence[tuple[int, int]], num_samples: int) -> Reduced:
    """Mean over the real samples of all ranks. Every rank must call.

    Args:
        attribution: What accumulated on this rank; its sums are overwritten.
        seen: Index and explained token of each real sample of this rank.
        num_samples: Samples in the reference set.

    Raises:
        ValueError: Samples are missing or came twice; or scores that `check_scores` refuses. On every rank.
    """
    everyone = dict(sorted(gathered := gather_objects(list(seen))))
    check_every_sample([index for index, _ in gathered], num_samples)
    reduce = _reduce_neurons if attribution.granularity == "neuron" else _reduce_weights
    scores = reduce(attribution.sums(), num_samples)
    raise_together(lambda: check_scores(scores, attribution.sign), ValueError, attribution.device)
    parts = gather_objects([(list(scores), total_relevance(scores))])
    check_modules([name for names, _ in parts for name in names], attribution.names)
    return Reduced(scores, list(everyone.values()), sum(total for _, total in parts))


def _reduce_neurons(sums: Mapping[str, Tensor], num_samples: int) -> dict[str, Tensor]:
    """All on rank 0, in one message: there are few."""
    total = sum_to_owner(torch.cat(list(sums.values())), owner=0)
    if total is None:
        return {}
    return dict(zip(sums, torch.split(total / num_samples, [len(part) for part in sums.values()]), strict=True))


def _reduce_weights(sums: Mapping[str, Tensor], num_samples: int) -> dict[str, Tensor]:
    """Module by module to the rank that it belongs to; FSDP2's gradients are summed already."""
    owners = share_out({name: total.numel() for name, total in sums.items()}, world_size())
    found: dict[str, Tensor] = {}
    for name, total in sums.items():
        to_owner = (
            gather_to_owner(total, owners[name]) if isinstance(total, DTensor) else sum_to_owner(total, owners[name])
        )
        if to_owner is not None:
            found[name] = to_owner / num_samples
    return found


def check_every_sample(indices: Sequence[int], num_samples: int) -> None:
    """Refuse a set of which not every sample was attributed, once.

    Raises:
        ValueError: Samples are missing or came twice.
    """
    if sorted(indices) != list(range(num_samples)):
        raise ValueError(
            f"every one of {num_samples} samples must be attributed once, got {len(indices)} attributions of "
            f"{len(set(indices))} samples. Leave `trainer.limit_predict_batches` at 1.0 and `use_distributed_sampler` "
            "false."
        )
