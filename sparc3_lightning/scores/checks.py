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
    """Count modules, scores, NaN, Inf and negative scores; each module is read once."""
    counts = ScoreCounts(num_modules=len(scores), num_scores=0, num_nan=0, num_inf=0, num_negative=0)
    for score in scores.values():
        counts["num_scores"] += score.numel()
        counts["num_nan"] += int(score.isnan().sum().item())
        counts["num_inf"] += int(score.isinf().sum().item())
        counts["num_negative"] += int((score < 0).sum().item())
    return counts


def check_scores(scores: Mapping[str, Tensor], sign: str | None) -> None:
    """Refuse scores that cannot be right.

    Args:
        scores: From module name to scores.
        sign: "abs" if no score may be negative.

    Raises:
        ValueError: NaN or Inf; negative `abs` scores. Names the module.
    """
    for name, score in scores.items():
        if not torch.isfinite(score).all():
            raise ValueError(f"scores of {name} must be finite, got NaN or Inf. Nothing was saved.")
        if sign == "abs" and (score < 0).any():
            raise ValueError(f"scores of {name} must not be negative with sign 'abs', got {score.min().item()}.")


def check_modules(names: Sequence[str], expected: Sequence[str]) -> None:
    """Refuse scores that do not cover every expected layer once, and no other (trap 14).

    Raises:
        ValueError: They do not; names the layers.
    """
    if sorted(names) != sorted(expected):
        missing, unknown = sorted(set(expected) - set(names)), sorted(set(names) - set(expected))
        raise ValueError(f"scores must cover every expected layer once; missing: {missing}, not expected: {unknown}.")
