"""The pruned model against models that lost random neurons: which of them is the pruned one, unit by unit?

One set of completions against the mean of several draws is skew where nothing differs: the mean of skew scores is less
skew than one of them. So no signs are flipped. If pruning does what random removal does, any of the 1 + D models could
be the pruned one, within each prompt (window) anew, and the sums that come of that are what the pruned model's own sum
is held against. With one draw it is the sign-flip test.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from sparc3_lightning.statistics.intervals import Interval
from sparc3_lightning.statistics.signs import block_rows


@dataclass(frozen=True)
class Tested:
    """What a test tells of one figure.

    Attributes:
        p_value: two-sided; by exchange, twice the smaller of the two sides'.
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
    """Test every figure's sum over the units, all figures under the same exchanges.

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
