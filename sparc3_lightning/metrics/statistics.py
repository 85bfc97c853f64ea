"""Tests of paired scores: the same prompts, or the same windows of a text, before and after.

Prompts are the unit: completions of one prompt are averaged first, and prompts are what the sign-flip test flips. Of
perplexity, windows are the unit. Everything is seeded and exact to repeat.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Scores = Tensor | Sequence[float] | Sequence[Sequence[float]]

# Numbers drawn at once: bounds memory at 32 MB whatever the number of prompts.
_CHUNK_ELEMENTS = 2**22


def paired_change(before: Scores, after: Scores) -> Tensor:
    """After - before for each prompt, its completions averaged.

    Returns:
        float64 changes.

    Shape:
        (N,) or (N, J) in, (N,) out.

    Raises:
        ValueError: shapes differ, no prompts, or a score that is not finite.
    """
    change = completion_changes(before, after)
    return change.mean(dim=1) if change.ndim == 2 else change


def completion_changes(before: Scores, after: Scores) -> Tensor:
    """After - before for each completion: number j of a prompt meets the same noise on both sides.

    Shape:
        (N,) or (N, J) in and out.

    Raises:
        ValueError: shapes differ, no prompts, or a score that is not finite.
    """
    old, new = (torch.as_tensor(scores, dtype=torch.float64).cpu() for scores in (before, after))
    if old.shape != new.shape or old.ndim not in (1, 2) or old.numel() == 0:
        raise ValueError(
            f"`before` and `after` must be scores of the same prompts, got shapes {tuple(old.shape)} and "
            f"{tuple(new.shape)}."
        )
    if not bool(old.isfinite().all() and new.isfinite().all()):
        raise ValueError("`before` and `after` must be finite; a failed score cannot be compared.")
    return new - old


def share_improved(before: Scores, after: Scores, lower_is_better: bool = True) -> float:
    """Share of prompts whose score got better; unchanged ones did not.

    Shape:
        (N,) or (N, J).
    """
    change = paired_change(before, after)
    return float((change < 0 if lower_is_better else change > 0).double().mean())


def sign_flip_p_value(before: Scores, after: Scores, num_draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the mean change, under signs of the changes that could as well be the other way round.

    Args:
        before: scores before.
        after: scores after.
        num_draws: patterns drawn; see `sign_flip_p_values`.
        seed: of the draws.

    Shape:
        (N,) or (N, J).

    Source:
        Phipson and Smyth, Permutation p-values should never be zero, 2010.
    """
    return sign_flip_p_values(paired_change(before, after).unsqueeze(1), num_draws, seed)[0]


def wilcoxon_p_value(before: Scores, after: Scores, num_draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test: the sign-flip test of the changes' ranks.

    A few prompts with very large changes can decide a mean, and hardly a sum of ranks: where the two tests differ, look
    at the prompts. Its distribution is that of the signs themselves, so that ties and zeros need no correction. Prompts
    that did not change are ranked, lowest, and then have no sign (Pratt): with them left out before ranking, as
    Wilcoxon did, p can grow where every change grows. Where nothing changed, p is 1.

    Args:
        before: scores before.
        after: scores after.
        num_draws: patterns drawn; see `sign_flip_p_values`.
        seed: of the draws.

    Shape:
        (N,) or (N, J).

    Source:
        Wilcoxon, Individual comparisons by ranking methods, 1945; Pratt, Remarks on zeros and ties in the Wilcoxon
        signed rank procedures, 1959.
    """
    return sign_flip_p_values(signed_ranks(paired_change(before, after)).unsqueeze(1), num_draws, seed)[0]


def sign_flip_p_values(columns: Tensor, num_draws: int = 10_000, seed: int = 0) -> list[float]:
    """Two-sided p-value of every column's mean, all columns under the same signs.

    All 2^N sign patterns are counted where there are no more than `num_draws` of them; otherwise patterns are drawn
    and the observed one is counted among them, so that the value is never 0.

    Args:
        columns: changes, or their signed ranks.
        num_draws: patterns drawn.
        seed: of the draws.

    Shape:
        (N, M).
    """
    num_units = len(columns)
    # Patterns that tie with the observed one differ from it by rounding only, and count as extreme.
    bars = columns.mean(dim=0).abs() - 1e-12 * columns.abs().mean(dim=0)

    def extreme(bits: Tensor) -> Tensor:
        return ((bits.double() * 2 - 1) @ columns / num_units).abs() >= bars

    if num_units < 63 and 2**num_units <= num_draws:
        patterns = torch.arange(2**num_units).unsqueeze(1) >> torch.arange(num_units)
        exact: list[float] = extreme(patterns & 1).double().mean(dim=0).tolist()
        return exact
    hits = torch.zeros(columns.shape[1], dtype=torch.int64)
    for rows, generator in chunks(num_draws, num_units, seed):
        hits += extreme(torch.randint(2, (rows, num_units), generator=generator)).sum(dim=0)
    drawn: list[float] = ((hits.double() + 1) / (num_draws + 1)).tolist()
    return drawn


def signed_ranks(change: Tensor) -> Tensor:
    """Ranks of the changes' sizes, with the changes' signs; equal sizes share their mean rank, and a zero has sign 0.

    Shape:
        (N,).
    """
    # Equal scores subtract to sizes that differ in the last digits only: those are ties.
    largest = change.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    size = (change / largest).abs().round(decimals=12)
    _, place, counts = torch.unique(size, return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0) - (counts.double() - 1) / 2
    return ranks[place] * change.sign() * (size > 0)


def chunks(num_draws: int, width: int, seed: int) -> Iterator[tuple[int, torch.Generator]]:
    """Numbers of rows that make up all draws, each as many as memory is meant to hold, with the generator."""
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _CHUNK_ELEMENTS // width)
    for start in range(0, num_draws, rows):
        yield min(rows, num_draws - start), generator
