"""What is known of a module's scores once they were read: so little that it is kept where the scores are not."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Scores that are looked at together: float64 copies of a whole layer are larger than the layer.
BLOCK = 2**22


@dataclass(frozen=True)
class SeedSummary:
    """How the general sets differ in one module.

    Attributes:
        variation: Sum of the scores' coefficients of variation, of those whose mean is not zero, and
        num_varying: How many these are.
        own_rows: Of each general set, row sums of the differential that it makes alone, (O,) float32.
    """

    variation: float
    num_varying: int
    own_rows: list[Tensor]


@dataclass(frozen=True)
class Summary:
    """Figures of one module's scores.

    Attributes:
        num_scores: How many, and of them
        num_nan: NaN,
        num_inf: Infinite, and
        num_negative: Below 0.
        total: Their sum.
        absolute: Sum of their absolute values.
        lowest: The lowest, and
        highest: The highest.
        rows: Row sums, (O,) float64: the scores of neurons.
        seeds: Of a differential, how its general sets differ.
    """

    num_scores: int
    num_nan: int
    num_inf: int
    num_negative: int
    total: float
    absolute: float
    lowest: float
    highest: float
    rows: Tensor
    seeds: SeedSummary | None = None


def row_blocks(shape: Sequence[int]) -> Iterator[slice]:
    """Rows that are looked at together: at most `BLOCK` scores, or one row."""
    step = max(1, BLOCK // math.prod(shape[1:]))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


@torch.no_grad()
def summarise(score: Tensor, seeds: SeedSummary | None = None) -> Summary:
    """Read a module's scores once.

    Args:
        score: The scores.
        seeds: Of a differential.

    Shape: score (O,) or (O, I).
    """
    blocks = [_summarise(score[rows]) for rows in row_blocks(score.shape)]
    return Summary(
        num_scores=score.numel(),
        num_nan=sum(block.num_nan for block in blocks),
        num_inf=sum(block.num_inf for block in blocks),
        num_negative=sum(block.num_negative for block in blocks),
        total=sum(block.total for block in blocks),
        absolute=sum(block.absolute for block in blocks),
        lowest=min(block.lowest for block in blocks),
        highest=max(block.highest for block in blocks),
        rows=torch.cat([block.rows for block in blocks]),
        seeds=seeds,
    )


def _summarise(score: Tensor) -> Summary:
    lowest, highest = (value.item() for value in torch.aminmax(score))
    total = score.sum(dtype=torch.float64).item()
    absolute = total if lowest >= 0 else score.abs().sum(dtype=torch.float64).item()
    is_finite = math.isfinite(absolute)
    return Summary(
        num_scores=score.numel(),
        num_nan=0 if is_finite else int(score.isnan().sum()),
        num_inf=0 if is_finite else int(score.isinf().sum()),
        num_negative=0 if lowest >= 0 else int((score < 0).sum()),
        total=total,
        absolute=absolute,
        lowest=lowest,
        highest=highest,
        rows=score.double() if score.ndim == 1 else score.sum(1, dtype=torch.float64),
    )


def check_summary(name: str, summary: Summary, sign: str | None) -> None:
    """Refuse a module's scores that cannot be right.

    Args:
        name: The module's.
        summary: What was read.
        sign: "abs" if no score may be negative.

    Raises:
        ValueError: NaN or Inf; negative `abs` scores. Names the module.
    """
    if summary.num_nan or summary.num_inf:
        raise ValueError(f"scores of {name} must be finite, got NaN or Inf. Nothing was saved.")
    if sign == "abs" and summary.num_negative:
        raise ValueError(f"scores of {name} must not be negative with sign 'abs', got {summary.lowest}.")
