"""What must hold of scores before anyone relies on them."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor


class ScoreCounts(TypedDict):
    """Counts for the validation table."""

    num_modules: int
    num_scores: int
    num_nan: int
    num_inf: int
    num_negative: int


def count_scores(scores: Mapping[str, Tensor]) -> ScoreCounts:
    """Count modules, scores, NaN, Inf and negative scores."""

    def count(predicate: str) -> int:
        return sum(int(getattr(torch, predicate)(score).sum().item()) for score in scores.values())

    return ScoreCounts(
        num_modules=len(scores),
        num_scores=sum(score.numel() for score in scores.values()),
        num_nan=count("isnan"),
        num_inf=count("isinf"),
        num_negative=sum(int((score < 0).sum().item()) for score in scores.values()),
    )


def check_scores(scores: Mapping[str, Tensor], sign: str | None, expected: Sequence[str] | None = None) -> None:
    """Refuse scores that cannot be right.

    Args:
        scores: From module name to scores.
        sign: "abs" if no score may be negative.
        expected: Module names that must be there, and no others; None: any.

    Raises:
        ValueError: A module is missing or not expected; NaN or Inf; negative `abs` scores. Names the module.
    """
    if not scores:
        raise ValueError("`scores` must hold at least one module, got none.")
    if expected is not None and set(scores) != set(expected):
        missing, unknown = sorted(set(expected) - set(scores)), sorted(set(scores) - set(expected))
        raise ValueError(f"scores must cover every expected layer; missing: {missing}, not expected: {unknown}.")
    for name, score in scores.items():
        if not torch.isfinite(score).all():
            raise ValueError(f"scores of {name} must be finite, got NaN or Inf. Nothing was saved.")
        if sign == "abs" and (score < 0).any():
            raise ValueError(f"scores of {name} must not be negative with sign 'abs', got {score.min().item()}.")
