"""Whether scorers agree: on completions, and on what changed."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef

from sparc3_lightning.evaluation.records import ToxicityResult, scores_of


@dataclass(frozen=True)
class Agreement:
    """Two scorers' main attributes on the same completions.

    Attributes:
        first: the attribute that decides.
        second: another scorer's.
        pearson: correlation of their scores of single completions, both models' together; None where one is constant.
        spearman: the same of their ranks.
        pearson_change: correlation of the prompts' changes; None where one scorer saw none.
        same_direction: share of prompts that both scorers saw fall, or both rise, of those where both saw a change;
            None where there are none.
    """

    first: str
    second: str
    pearson: float | None
    spearman: float | None
    pearson_change: float | None
    same_direction: float | None


def agreements(before: ToxicityResult, after: ToxicityResult) -> list[Agreement]:
    """How far every further scorer agrees with the first one; empty where there is one scorer.

    Args:
        before: the baseline's completions.
        after: the pruned model's, of the same prompts.
    """
    first, *others = after.main_attributes
    return [_agreement(before, after, first, second) for second in others]


def _agreement(before: ToxicityResult, after: ToxicityResult, first: str, second: str) -> Agreement:
    old, new = ([scores_of(result, name) for name in (first, second)] for result in (before, after))
    ours, theirs = (torch.cat([old[i].flatten(), new[i].flatten()]) for i in (0, 1))
    changes = [(new[i] - old[i]).mean(dim=1) for i in (0, 1)]
    both = (changes[0] != 0) & (changes[1] != 0)
    agree = (changes[0].sign() == changes[1].sign())[both]
    return Agreement(
        first,
        second,
        pearson=_correlation(pearson_corrcoef, ours, theirs),
        spearman=_correlation(spearman_corrcoef, ours, theirs),
        pearson_change=_correlation(pearson_corrcoef, *changes),
        same_direction=float(agree.double().mean()) if len(agree) else None,
    )


def _correlation(correlate: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> float | None:
    is_constant = any(bool((values == values[0]).all()) for values in (first, second))
    return None if is_constant else float(correlate(first, second))
