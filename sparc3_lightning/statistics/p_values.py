"""Tests of paired scores: the same prompts, or the same windows of a text, before and after.

Prompts are the unit: completions of one prompt are averaged first, and prompts are what the sign-flip test flips. Of
perplexity, windows are the unit. The tests are scipy's; everything is seeded and exact to repeat.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests
from torch import Tensor

from sparc3_lightning.statistics.intervals import Interval, block_rows

Members = Mapping[Any, Sequence[int] | NDArray[np.integer[Any]]]
"""A selection: by layer the indices of neurons, or by name of a linear layer those of single weights, each once."""

# Changes that scipy's signed-rank test counts exactly though some tie.
_FEW = 13


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
        """Sign patterns drawn; of many tests, until the least p-value, times their number, is alpha / 20."""
        if self.num_tests == 1:
            return self.num_draws
        return max(self.num_draws, math.ceil(20 * self.num_tests / self.alpha))


def sign_flip_p_values(columns: Tensor, num_draws: int = 10_000, seed: int = 0) -> list[float]:
    """Two-sided p-value of every column's mean, under signs of the changes that could as well be the other way round.

    All 2^N sign patterns are counted where there are no more than `num_draws` of them; otherwise patterns are drawn
    and the observed one is counted among them, so that the value is never 0.

    Args:
        columns: Changes of the same units, a figure a column; all columns meet the same signs.
        num_draws: Patterns drawn.
        seed: Of the draws.

    Shape:
        (N, M).

    Source:
        Phipson and Smyth, Permutation p-values should never be zero, 2010.
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


def wilcoxon_p_value(change: Tensor) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test: the sign-flip test of the changes' ranks.

    A few prompts with very large changes can decide a mean, and hardly a sum of ranks: where the two tests differ, look
    at the prompts. Prompts that did not change are ranked, lowest, and then have no sign (Pratt): with them left out
    before ranking, as Wilcoxon did, p can grow where every change grows. Where nothing changed, p is 1. Where few did,
    all signs are counted; of many scipy takes the normal approximation.

    Shape:
        (N,).

    Source:
        Wilcoxon, Individual comparisons by ranking methods, 1945; Pratt, Remarks on zeros and ties in the Wilcoxon
        signed rank procedures, 1959.
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


@dataclass(frozen=True)
class Tested:
    """What a test tells of one figure.

    Attributes:
        p_value: Two-sided; by exchange, twice the smaller of the two sides'.
        p_value_least: The least that the test can give with so many units and draws.
        interval: By exchange, the shifts of the pruned model's values, per unit of size, at which each side's p-value
            is above half of 1 - confidence. Where units are too few for any p-value to be that low, the shifts at which
            it is not the least, with the confidence that these have.
    """

    p_value: float
    p_value_least: float
    interval: Interval


def exchange_tests(
    values: Tensor, sizes: Tensor, num_draws: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> list[Tested]:
    """The pruned model against models that lost random neurons: which of them is the pruned one, unit by unit?

    One set of completions against the mean of several draws is skew where nothing differs: the mean of skew scores is
    less skew than one of them. So no signs are flipped. If pruning does what random removal does, any of the 1 + D
    models could be the pruned one, within each prompt (window) anew, and the sums that come of that are what the pruned
    model's own sum is held against. With one draw it is the sign-flip test.

    All exchanges are counted where there are no more than `num_draws` orders of the models; otherwise they are drawn,
    and the observed one is counted among them.

    Args:
        values: Of each unit (prompt or window), by each model, the pruned one first, of each figure.
        sizes: What a shift by 1 adds to a unit's value: 1 to a prompt's score, its tokens to a window's loss.
        num_draws: Exchanges drawn.
        seed: Of the draws.
        confidence: Coverage of the intervals.

    Shape:
        values (N, 1 + D, M), sizes (N,).

    Source:
        Pitman, Significance tests which may be applied to samples from any populations, 1937 (inverting the test);
        Hartigan, Using subsample values as typical values, 1969; Phipson and Smyth, Permutation p-values should never
        be zero, 2010.
    """
    if len(values) == 1:  # scipy asks for two units at least; one in which nothing differs makes no difference
        values, sizes = torch.cat([values, torch.zeros_like(values)]), torch.cat([sizes, torch.zeros_like(sizes)])
    num_units, num_models, _ = values.shape
    differences = (values - values.mean(dim=1, keepdim=True)).numpy()
    # As shares of a figure's mean one: sums that tie do so to 12 digits.
    scales = np.abs(differences).mean(axis=(0, 1)).clip(min=np.finfo(float).tiny)
    by_model = differences / scales

    def sums(*order: NDArray[Any], axis: int) -> NDArray[np.float64]:
        """Sums of the models that stand in the pruned one's place; then the size of the units where that is another."""
        chosen = order[0]
        total = sum((chosen == model) @ by_model[:, model] for model in range(num_models))
        return np.concatenate([np.round(total, 12), ((chosen != 0) @ sizes.numpy())[..., None]], axis=-1)

    found = stats.permutation_test(
        # What scipy permutes are the models' numbers alone: one product a model makes every figure's sums of them.
        [np.full(num_units, model) for model in range(num_models)], sums, permutation_type="samples",
        n_resamples=num_draws, batch=block_rows((3 + 3 * num_models) * num_units), vectorized=True, axis=-1,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    drawn, moved = found.null_distribution[:, :-1], found.null_distribution[:, -1]
    is_exact = math.factorial(num_models) ** num_units <= num_draws
    # The observed exchange is extreme whatever the shift, wherever it comes.
    always = int((moved == 0).sum()) + (0 if is_exact else 1)
    # In units that keep their place nothing differs: what is left is the mean difference of those that do not.
    shifts = (found.statistic[:-1] - drawn[moved > 0]) / moved[moved > 0, None]
    least, sorted_shifts = min(1.0, 2 * always / (len(shifts) + always)), np.sort(shifts, axis=0) * scales
    return [
        Tested(float(p_value), least, _inverted(column, always, confidence, num_draws))
        for p_value, column in zip(found.pvalue[:-1], sorted_shifts.T, strict=True)
    ]


def _inverted(shifts: NDArray[np.float64], always: int, confidence: float, num_draws: int) -> Interval:
    """From the sorted shifts at which each exchange is as far out as what was observed."""
    total, alpha = len(shifts) + always, round(1 - confidence, 10)
    # One side's p-value at a shift: how many lie beyond it, and those that always do, of all.
    place = math.floor(total * alpha / 2 + 1e-9) - always
    if place < 0:
        place, confidence = 0, max(0.0, 1 - 2 * always / total)
    return Interval(float(shifts[place]), float(shifts[-1 - place]), confidence, num_draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: below 0.05, a cell stands out though so many were tried.

    Source:
        Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    return list(_holm(tuple(p_values)))


@cache  # prices and options often choose the same cells, and statsmodels collects garbage at every call
def _holm(p_values: tuple[float, ...]) -> tuple[float, ...]:
    # It refuses an empty list, too.
    return tuple(float(p) for p in multipletests(p_values, method="holm")[1]) if p_values else ()


def least_holm(least: Sequence[float]) -> float:
    """What no adjusted p-value can be below, from the least that each test can give."""
    return min(1.0, len(least) * min(least))


@dataclass(frozen=True)
class Overlap:
    """How far two selections agree.

    Attributes:
        num_shared: Neurons, or weights, in both.
        jaccard: Those shared, of those in either.
        expected: Those that two random selections of these sizes share.
        p_value: Chance that random selections share at least as many; hypergeometric.
    """

    num_shared: int
    jaccard: float
    expected: float
    p_value: float


def num_members(selection: Members) -> int:
    """How many a selection holds."""
    return sum(map(len, selection.values()))


def num_common(first: Members, second: Members) -> int:
    """How many two selections share; weights are too many for a set of them."""
    places = first.keys() & second.keys()
    return sum(len(np.intersect1d(first[place], second[place], assume_unique=True)) for place in places)


def overlap(first: Members, second: Members, total: int) -> Overlap:
    """How far two selections, of so many in all, agree."""
    return overlap_of(num_members(first), num_members(second), num_common(first, second), total)


def overlap_of(num_first: int, num_second: int, num_shared: int, total: int) -> Overlap:
    """How far two selections agree, by how many they hold, alone and both, of so many in all."""
    p_value = float(stats.hypergeom.sf(num_shared - 1, total, num_first, num_second))
    jaccard = num_shared / (num_first + num_second - num_shared)
    return Overlap(num_shared, jaccard, num_first * num_second / total, p_value)


def pairwise_overlaps(selections: Mapping[str, Members], total: int) -> dict[tuple[str, str], Overlap]:
    """How far every two selections, of so many in all, agree; by their names."""
    pairs = combinations(selections, 2)
    return {(one, other): overlap(selections[one], selections[other], total) for one, other in pairs}
