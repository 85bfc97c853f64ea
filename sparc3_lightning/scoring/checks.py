"""What must hold of scores before anyone relies on them."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from torch import Tensor

from sparc3_lightning.scoring.lazy import summaries
from sparc3_lightning.scoring.summary import Summary


class ScoreCounts(TypedDict):
    """Counts for the validation table."""

    num_modules: int
    num_scores: int
    num_nan: int
    num_inf: int
    num_negative: int


def count_scores(scores: Mapping[str, Tensor]) -> ScoreCounts:
    """Count modules, scores, NaN, Inf and negative scores; what was read before is not read again."""
    found = summaries(scores).values()
    return ScoreCounts(
        num_modules=len(found),
        num_scores=sum(summary.num_scores for summary in found),
        num_nan=sum(summary.num_nan for summary in found),
        num_inf=sum(summary.num_inf for summary in found),
        num_negative=sum(summary.num_negative for summary in found),
    )


def check_scores(scores: Mapping[str, Tensor], sign: str | None) -> None:
    """Refuse scores that cannot be right.

    Args:
        scores: From module name to scores.
        sign: "abs" if no score may be negative.

    Raises:
        ValueError: NaN or Inf; negative `abs` scores. Names the module.
    """
    for name, summary in summaries(scores).items():
        check_summary(name, summary, sign)


def check_summary(name: str, summary: Summary, sign: str | None) -> None:
    """The same of one module's scores, which were read before."""
    if summary.num_nan or summary.num_inf:
        raise ValueError(f"scores of {name} must be finite, got NaN or Inf. Nothing was saved.")
    if sign == "abs" and summary.num_negative:
        raise ValueError(f"scores of {name} must not be negative with sign 'abs', got {summary.lowest}.")


def check_modules(names: Sequence[str], expected: Sequence[str]) -> None:
    """Refuse scores that do not cover every expected layer once, and no other (trap 14).

    Raises:
        ValueError: They do not; names the layers.
    """
    if sorted(names) != sorted(expected):
        missing, unknown = sorted(set(expected) - set(names)), sorted(set(names) - set(expected))
        raise ValueError(f"scores must cover every expected layer once; missing: {missing}, not expected: {unknown}.")
