"""Tests of paired scores: the same prompts, or the same windows of a text, before and after.

Prompts are the unit: completions of one prompt are averaged first, and prompts are what the sign-flip test flips. Of
perplexity, windows are the unit. The tests are scipy's; everything is seeded and exact to repeat.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

Scores = Tensor | Sequence[float] | Sequence[Sequence[float]]

# Changes that scipy's signed-rank test counts exactly though some tie.
_FEW = 13

# Bytes of one block of draws, whatever the number of prompts and draws.
_BLOCK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class PairedTest:
    """Settings of the paired statistics.

    Attributes:
        num_draws: Bootstrap samples, and sign patterns or exchanges of one test.
        seed: Of the draws.
        confidence: Coverage of the intervals.
        wanted_power: The power that counts as enough.
        num_tests: P-values that are corrected together; of many, more patterns are drawn.
    """

    num_draws: int = 10_000
    seed: int = 0
    confidence: float = 0.95
    wanted_power: float = 0.8
    num_tests: int = 1

    @property
    def alpha(self) -> float:
        """A p-value must be below it."""
        return round(1 - self.confidence, 10)

    @property
    def num_patterns(self) -> int:
        """Sign patterns drawn."""
        several = self.num_tests > 1
        return num_draws_for(self.num_tests, self.alpha, self.num_draws) if several else self.num_draws


def paired_change(before: Scores, after: Scores) -> Tensor:
    """After - before for each prompt, its completions averaged.

    Returns:
        float64 changes.

    Shape:
        (N,) or (N, J) in, (N,) out.

    Raises:
        ValueError: Shapes differ, no prompts, or a score that is not finite.
    """
    change = completion_changes(before, after)
    return change.mean(dim=1) if change.ndim == 2 else change


def completion_changes(before: Scores, after: Scores) -> Tensor:
    """After - before for each completion: number j of a prompt meets the same noise on both sides.

    Shape:
        (N,) or (N, J) in and out.

    Raises:
        ValueError: Shapes differ, no prompts, or a score that is not finite.
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
        before: Scores before.
        after: Scores after.
        num_draws: Patterns drawn; see `sign_flip_p_values`.
        seed: Of the draws.

    Shape:
        (N,) or (N, J).

    Source:
        Phipson and Smyth, Permutation p-values should never be zero, 2010.
    """
    return sign_flip_p_values(paired_change(before, after).unsqueeze(1), num_draws, seed)[0]


def sign_flip_p_values(columns: Tensor, num_draws: int = 10_000, seed: int = 0) -> list[float]:
    """Two-sided p-value of every column's mean, all columns under the same signs.

    All 2^N sign patterns are counted where there are no more than `num_draws` of them; otherwise patterns are drawn
    and the observed one is counted among them, so that the value is never 0.

    Args:
        columns: Changes of the same units, a figure a column.
        num_draws: Patterns drawn.
        seed: Of the draws.

    Shape:
        (N, M).
    """
    # scipy asks for two units at least; one that did not change makes no difference.
    values = columns.numpy() if len(columns) > 1 else np.pad(columns.numpy(), ((0, 1), (0, 0)))
    num_units = len(values)
    # Patterns that tie with the observed one differ from it by rounding only, and count as extreme.
    values = values / np.abs(values).mean(axis=0).clip(min=np.finfo(float).tiny)

    def mean(signs: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        means: NDArray[np.float64] = np.abs(signs @ values / num_units).round(12)
        return means

    found = stats.permutation_test(
        # What scipy flips are signs alone: one product makes every column's means of them.
        (np.ones(num_units),), mean, permutation_type="samples", alternative="greater", n_resamples=num_draws,
        batch=block_rows(9 * num_units), vectorized=True, axis=-1, rng=np.random.default_rng(seed),
    )  # fmt: skip
    p_values: list[float] = found.pvalue.tolist()
    return p_values


def least_p_value(num_units: int, num_draws: int = 10_000) -> float:
    """The least p-value that a sign-flip test can give: all units changed the same way, by as much as one likes."""
    is_exact = num_units < 63 and 2**num_units <= num_draws
    return 2.0 ** (1 - num_units) if is_exact else 1 / (num_draws + 1)


def num_draws_for(num_tests: int, alpha: float, at_least: int = 10_000) -> int:
    """Draws after which the least p-value, times the number of tests, is a twentieth of `alpha`.

    Args:
        num_tests: p-values that are corrected together.
        alpha: A corrected p-value must be below it.
        at_least: Draws of a single test.
    """
    return max(at_least, math.ceil(20 * num_tests / alpha))


def wilcoxon_p_value(before: Scores, after: Scores) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test: the sign-flip test of the changes' ranks.

    A few prompts with very large changes can decide a mean, and hardly a sum of ranks: where the two tests differ, look
    at the prompts. Prompts that did not change are ranked, lowest, and then have no sign (Pratt): with them left out
    before ranking, as Wilcoxon did, p can grow where every change grows. Where nothing changed, p is 1. Where few did,
    all signs are counted; of many scipy takes the normal approximation.

    Args:
        before: Scores before.
        after: Scores after.

    Shape:
        (N,) or (N, J).

    Source:
        Wilcoxon, Individual comparisons by ranking methods, 1945; Pratt, Remarks on zeros and ties in the Wilcoxon
        signed rank procedures, 1959.
    """
    return wilcoxon_of_changes(paired_change(before, after))


def wilcoxon_of_changes(change: Tensor) -> float:
    """`wilcoxon_p_value` of changes.

    Shape:
        (N,).
    """
    ranks = signed_ranks(change)
    moved = ranks[ranks != 0]
    # Of a few that changed among many that did not scipy, too, would take the approximation, which is far off.
    if len(moved) <= _FEW:
        return sign_flip_p_values(moved.unsqueeze(1), 2**_FEW)[0] if len(moved) else 1.0
    return float(stats.wilcoxon(_tied(change), zero_method="pratt").pvalue)


def signed_ranks(change: Tensor) -> Tensor:
    """Ranks of the changes' sizes, with the changes' signs; equal sizes share their mean rank, and a zero has sign 0.

    Shape:
        (N,).
    """
    sizes = _tied(change)
    return torch.from_numpy(stats.rankdata(np.abs(sizes)) * np.sign(sizes))


def _tied(change: Tensor) -> NDArray[np.float64]:
    """Changes as shares of the largest: equal scores subtract to sizes that differ in the last digits only, and tie."""
    largest = change.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    shares: NDArray[np.float64] = (change / largest).round(decimals=12).double().numpy()
    return shares


def block_rows(width: int) -> int:
    """Rows of so many float64 that a block of draws may have."""
    return max(1, _BLOCK_BYTES // (8 * width))
