"""Rank correlation and recall: against scipy, where scores and effects agree, differ, tie or are missing."""

import math

import numpy as np
import pytest
from scipy import stats

from sparc3_lightning.statistics.p_values import PairedTest
from sparc3_lightning.statistics.prediction import prediction, rank_correlation

TEST = PairedTest(num_draws=999)
EFFECTS = np.exp(np.random.default_rng(0).standard_normal(60))


def test_the_order_of_the_effects_is_predicted_whole() -> None:
    found = prediction(EFFECTS**3, EFFECTS, 10, TEST)
    assert (found.num_units, found.num_best, found.recall_by_chance, found.missing) == (60, 10, 10 / 60, "")
    assert found.correlation == pytest.approx(1)
    assert found.recall == 1
    assert found.correlation_interval is not None
    assert found.correlation_interval.low == pytest.approx(1)
    assert found.recall_interval.low == pytest.approx(0.722, abs=1e-3)  # Wilson's of 10 in 10
    assert found.recall_interval.high == pytest.approx(1)
    assert found.p_value == 1 / 1000


def test_the_reverse_finds_none() -> None:
    found = prediction(-EFFECTS, EFFECTS, 10, TEST)
    assert found.correlation == pytest.approx(-1)
    assert found.recall == found.recall_interval.low == 0
    assert found.recall_interval.high > 0.2, "none of ten is not never"
    assert found.p_value == 1 / 1000


def test_scipy_says_the_same_with_ties() -> None:
    rng = np.random.default_rng(1)
    scores = np.round(EFFECTS + rng.standard_normal(60))
    found, expected = prediction(scores, EFFECTS, 10, TEST), stats.spearmanr(scores, EFFECTS)
    assert found.correlation == pytest.approx(expected.statistic)
    assert found.correlation_interval is not None
    assert found.correlation_interval.low < expected.statistic < found.correlation_interval.high
    slow = stats.bootstrap(
        (scores, EFFECTS), lambda x, y: stats.spearmanr(x, y).statistic, paired=True, n_resamples=400, vectorized=False,
        method="percentile", rng=rng,
    ).confidence_interval  # fmt: skip
    ends = (found.correlation_interval.low, found.correlation_interval.high)
    assert ends == pytest.approx((slow.low, slow.high), abs=0.08)


def test_where_there_is_nothing_p_is_even() -> None:
    rng = np.random.default_rng(2)
    p_values = [
        prediction(rng.standard_normal(30), EFFECTS[:30], 5, PairedTest(num_draws=199)).p_value for _ in range(200)
    ]
    assert stats.kstest(np.array(p_values, dtype=float), "uniform").pvalue > 0.01


def test_few_units_are_permuted_in_every_order() -> None:
    found = prediction(np.arange(4.0), np.arange(4.0), 2, TEST)
    assert found.p_value == 2 / 24


def test_scores_without_an_order_find_what_chance_finds() -> None:
    found = prediction(np.ones(60), EFFECTS, 10, TEST)
    assert (found.correlation, found.correlation_interval, found.p_value) == (None, None, None)
    assert found.missing == "all scores are equal: they have no order"
    assert found.recall == pytest.approx(found.recall_by_chance)
    assert prediction(EFFECTS, np.zeros(60), 10, TEST).missing == "all effects are equal: they have no order"


def test_what_ties_at_the_last_place_shares_it() -> None:
    effects = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    assert prediction(np.array([9.0, 1.0, 1.0, 0.0, 0.0, 0.0]), effects, 2, TEST).recall == 0.75


def test_units_without_a_score_are_left_out() -> None:
    scores = EFFECTS.copy()
    scores[:20] = math.nan
    found = prediction(scores, EFFECTS, 10, TEST)
    assert found == prediction(EFFECTS[20:], EFFECTS[20:], 10, TEST)
    assert found.num_units == 40
    scores[2:] = math.nan
    scores[:2] = 1, 2
    found = prediction(scores, EFFECTS, 10, TEST)
    assert (found.num_units, found.num_best, found.recall) == (2, 2, 1)
    assert found.missing == "fewer than three units have an order"


@pytest.mark.parametrize(
    ("scores", "num_best", "message"),
    [
        (np.ones(3), 1, r"got shapes \(3,\) and \(60,\)"),
        (np.ones(60), 0, "`num_best` be at least 1"),
        (np.full(60, math.nan), 1, "got 60 without"),
    ],
)
def test_what_cannot_be_held_against_effects(scores: np.ndarray, num_best: int, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        prediction(scores, EFFECTS, num_best, TEST)


def test_rank_correlation_of_two_scores() -> None:
    first, second = np.array([3.0, 1.0, 2.0, 2.0]), np.array([10.0, -5.0, 7.0, 0.0])
    assert rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert rank_correlation(first, -first) == pytest.approx(-1.0)
    assert rank_correlation(first, np.ones(4)) is None
