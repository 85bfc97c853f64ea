"""How far scores predict effects that were measured: do they agree in order, and on which are the best?"""

from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from sparc3_lightning.statistics.intervals import Bootstrap, Interval, Values, block_rows
from sparc3_lightning.statistics.p_values import PairedTest


@dataclass(frozen=True)
class Prediction:
    """How far scores predict effects.

    Attributes:
        num_units: Units that have a score and an effect.
        correlation: Spearman's rank correlation of scores and effects; None where it is not defined, see `missing`.
        correlation_interval: Bootstrap interval of it, percentile: units are drawn, each with its score and effect.
        p_value: Two-sided, by permutation of the effects.
        num_best: How many count as the best, k.
        recall: Share of the k units of the largest effects that are among the k of the highest scores. Units that tie
            at the last place share it.
        recall_interval: Wilson's interval of it; a careful one: in draws of known truth (20 of 300 units, 8 of 40)
            it holds that in 95 to 99 of 100.
        recall_by_chance: What scores without order would give: k of all units.
        missing: Why there is no correlation; empty where there is one.
    """

    num_units: int
    correlation: float | None
    correlation_interval: Interval | None
    p_value: float | None
    num_best: int
    recall: float
    recall_interval: Interval
    recall_by_chance: float
    missing: str = ""


def prediction(scores: Values, effects: Values, num_best: int, test: PairedTest | None = None) -> Prediction:
    """How far scores predict effects; the highest score is the one that predicts the largest effect.

    Args:
        scores: What predicts, one a unit; NaN where there is none: such a unit is left out.
        effects: What was measured of each unit.
        num_best: How many count as the best; of fewer units, all.
        test: Settings of the statistics.

    Shape:
        (N,) each.

    Raises:
        ValueError: Shapes differ, no unit with both, or no best.

    Source:
        Spearman, The proof and measurement of association between two things, 1904; Phipson and Smyth, Permutation
        p-values should never be zero, 2010; Wilson, Probable inference, the law of succession, and statistical
        inference, 1927.
    """
    test = test or PairedTest()
    if scores.shape != effects.shape or scores.ndim != 1 or num_best < 1:
        raise ValueError(
            "`scores` and `effects` must have one value a unit and `num_best` be at least 1, got shapes "
            f"{scores.shape} and {effects.shape}, and {num_best}."
        )
    known = np.isfinite(scores) & np.isfinite(effects)
    if not known.any():
        raise ValueError(f"a prediction needs a unit with a score and an effect, got {len(scores)} without.")
    pair = (np.asarray(scores[known], np.float64), np.asarray(effects[known], np.float64))
    num_units = len(pair[0])
    num_best = min(num_best, num_units)

    recall = float(np.minimum(*(_best(values, num_best) for values in pair)).sum() / num_best)
    missing = _undefined(*pair)
    order = None if missing else Bootstrap.of(pair, _spearman, test.num_draws, test.seed)
    return Prediction(
        num_units=num_units,
        correlation=None if order is None else order.figure,
        correlation_interval=None if order is None else order.percentile(test.confidence),
        p_value=None if order is None else _permutation_p_value(*pair, test),
        num_best=num_best,
        recall=recall,
        recall_interval=_wilson(recall, num_best, test.confidence),
        recall_by_chance=num_best / num_units,
        missing=missing,
    )


def rank_correlation(first: Values, second: Values) -> float | None:
    """Spearman's rank correlation of two scores of the same units; None where one of them has no order.

    It has no p-value here: neurons of a model are no independent draws.

    Shape:
        (N,) each.

    Source:
        Spearman, The proof and measurement of association between two things, 1904.
    """
    return None if _undefined(first, second) else float(_spearman(first, second, axis=-1))


def _undefined(scores: Values, effects: Values) -> str:
    """Why there is no correlation; empty where there is one."""
    if len(scores) < 3:
        return "fewer than three units have an order"
    constant = [name for name, values in (("scores", scores), ("effects", effects)) if np.ptp(values) == 0]
    return f"all {' and '.join(constant)} are equal: they have no order" if constant else ""


def _spearman(scores: Values, effects: Values, axis: int) -> Values:
    """Rank correlation along the last axis; 0 in a draw where nothing varies."""
    first, second = (_standardised(values) for values in (scores, effects))
    found: Values = (first * second).sum(axis)
    return found


def _standardised(values: Values) -> Values:
    """Ranks, ties at their mean, as a vector of length 1 around 0."""
    ranks = stats.rankdata(values, axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    length: Values = np.sqrt((ranks**2).sum(-1, keepdims=True))
    found: Values = ranks / np.where(length == 0, 1, length)
    return found


def _permutation_p_value(scores: Values, effects: Values, test: PairedTest) -> float:
    first, second = _standardised(scores), _standardised(effects)

    def size(permuted: Values, axis: int) -> Values:
        found: Values = np.abs(permuted @ first).round(12)  # orders that tie with the observed one count as extreme
        return found

    found = stats.permutation_test(
        (second,), size, permutation_type="pairings", alternative="greater", n_resamples=test.num_draws,
        batch=block_rows(3 * len(first)), vectorized=True, axis=-1, rng=np.random.default_rng(test.seed),
    )  # fmt: skip
    return float(found.pvalue)


def _wilson(share: float, total: int, confidence: float) -> Interval:
    """Of a share of so many, as if each were found or not by itself: no draws, and never empty at 0 or 1."""
    low, high = proportion_confint(share * total, total, alpha=1 - confidence, method="wilson")
    return Interval(float(low), float(high), confidence, 0)


def _best(values: Values, num_best: int) -> Values:
    """How much of each is among the best: 1 or 0; what ties at the last place shares what is left."""
    last = np.partition(values, -num_best)[-num_best]
    above, tied = values > last, values == last
    best: Values = above + tied * (num_best - above.sum()) / tied.sum()
    return best
