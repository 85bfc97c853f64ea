"""The baselines from plain Python, on a model that is already there."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning.data.batches import Batch, pad_right, plan_batches
from sparc3_lightning.data.samples import token_hash
from sparc3_lightning.lrp.attribute import check_samples
from sparc3_lightning.models import context_length
from sparc3_lightning.scoring.baselines.found import MethodScores
from sparc3_lightning.scoring.baselines.methods import expand_methods
from sparc3_lightning.scoring.baselines.score import BaselineScorer


def score_baselines(
    model: PreTrainedModel,
    reference_sets: Mapping[str, Sequence[Tensor]],
    methods: Sequence[str],
    signs: Sequence[str] = ("abs",),
    batch_size: int = 8,
    **options: Any,
) -> dict[str, MethodScores]:
    """Scores of several reference sets by several methods.

    Args:
        model: A causal language model of a known family.
        reference_sets: Token ids by the set's name, one 1-D tensor a sample, unpadded.
        methods: Names in `METHODS`.
        signs: Signs of the gradient-based methods.
        batch_size: Samples in one pass; scores do not depend on it.
        **options: See `BaselineScorer`: `granularity`, `modules`, `target`, `general`, `behaviour`, `seed`.

    Returns:
        What each method found, by its key: the name, and `_signed` where its scores are.

    Raises:
        ValueError: An unknown method or option; samples that are empty or longer than the context.
    """
    scorer = BaselineScorer(model, expand_methods(methods, signs), **options)
    for name, samples in reference_sets.items():
        check_samples(samples, context_length(model), model.config.vocab_size, f"reference_sets[{name!r}]")
        data = {
            "token_hash": token_hash(samples),
            "num_samples": len(samples),
            "num_tokens": sum(len(sample) for sample in samples),
        }
        plan = plan_batches([len(sample) for sample in samples], batch_size)
        scorer.score(name, data, partial(_batches, [sample.long() for sample in samples], plan, scorer.device))
    return scorer.finish()


def _batches(
    samples: Sequence[Tensor], plan: Sequence[Sequence[int]], device: torch.device, description: str
) -> Iterator[Batch]:
    for indices in plan:
        batch = pad_right(samples, indices)
        batch["input_ids"] = batch["input_ids"].to(device)
        yield batch
