"""Bootstrap intervals against scipy, slow loops, known truths and symmetries."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from sparc3_lightning.statistics import intervals as room
from sparc3_lightning.statistics.intervals import (
    Bootstrap,
    Interval,
    bootstrap_means,
    perplexity_bootstrap,
    two_stage_means,
    unit_weights,
)
from tests.unit.statistics.pairs import nested_changes, pair
from tests.unit.statistics.single import paired_bootstrap, two_stage_bootstrap


def ends(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None
    return interval.low, interval.high


def both(bootstrap: Bootstrap, confidence: float = 0.95) -> list[float]:
    return [*ends(bootstrap.percentile(confidence)), *ends(bootstrap.bca(confidence))]


def scipys_bca(bootstrap: Bootstrap, data: tuple[Any, ...], statistic: Any, **options: Any) -> tuple[float, float]:
    """Of the same draws: scipy makes the interval, and its own jackknife."""
    drawn = SimpleNamespace(bootstrap_distribution=bootstrap.draws)
    interval = stats.bootstrap(
        data, statistic, method="BCa", n_resamples=0, bootstrap_result=drawn, vectorized=False, **options
    ).confidence_interval
    return float(interval.low), float(interval.high)


def test_it_matches_an_independent_one() -> None:
    before, after = pair(93)
    interval = paired_bootstrap(before, after).percentile()
    change = (after - before).numpy()
    random = np.random.default_rng(1)
    means = [random.choice(change, len(change)).mean() for _ in range(10_000)]
    assert ends(interval) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.003)
    assert (interval.confidence, interval.num_draws) == (0.95, 10_000)


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_bca_is_scipys(confidence: float) -> None:
    before, _ = pair(40)
    after = before - torch.rand(40, generator=torch.Generator().manual_seed(5), dtype=torch.float64) ** 9  # skew
    found = paired_bootstrap(before, after)
    same_draws = scipys_bca(
        found, (before.numpy(), after.numpy()), lambda old, new: np.mean(new - old), paired=True,
        confidence_level=confidence,
    )  # fmt: skip
    assert ends(found.bca(confidence)) == pytest.approx(same_draws, abs=1e-12)
    own_draws = stats.bootstrap(
        ((after - before).numpy(),), np.mean, confidence_level=confidence, rng=np.random.default_rng(0)
    ).confidence_interval
    assert ends(found.bca(confidence)) == pytest.approx(tuple(own_draws), abs=0.01)
    assert ends(found.bca(confidence)) != pytest.approx(ends(found.percentile(confidence)), abs=0.001)


def test_bca_of_a_share_counts_ties_as_scipy_does() -> None:
    change = torch.tensor([-1.0] * 4 + [0.0] * 25 + [1.0], dtype=torch.float64)
    found = paired_bootstrap(torch.zeros(30), change)
    expected = scipys_bca(found, (change.numpy(),), np.mean)
    assert ends(found.bca()) == pytest.approx(expected, abs=1e-12)


def test_pairs_stay_together() -> None:
    """A constant change has no spread, however far the scores themselves spread."""
    before = torch.rand(50, dtype=torch.float64)
    found = paired_bootstrap(before, before - 0.25)
    assert ends(found.percentile()) == pytest.approx((-0.25, -0.25), abs=1e-12)
    assert found.bca() is None


@pytest.mark.parametrize("change", [[0.3], [0.0] * 20, [0.2] * 20])
def test_bca_needs_a_spread(change: list[float]) -> None:
    assert paired_bootstrap([0.1] * len(change), [0.1 + value for value in change]).bca() is None


def test_intervals_move_turn_and_stretch_with_the_changes() -> None:
    before, after = pair(60)
    low, high, bca_low, bca_high = both(paired_bootstrap(before, after))
    assert both(paired_bootstrap(before, after + 2)) == pytest.approx([low + 2, high + 2, bca_low + 2, bca_high + 2])
    assert both(paired_bootstrap(3 * before, 3 * after)) == pytest.approx(
        [3 * low, 3 * high, 3 * bca_low, 3 * bca_high]
    )
    # Quantiles of mirrored draws are mirrored, and so are bias and acceleration.
    assert both(paired_bootstrap(after, before)) == pytest.approx([-high, -low, -bca_high, -bca_low])


def losses(n: int, seed: int = 0) -> tuple[list[float], list[float], list[int]]:
    """Windows of unlike size; after, every token costs about 0.05 nats more."""
    random = np.random.default_rng(seed)
    num_scored = random.integers(1, 40, n)
    before = num_scored * random.normal(4.0, 0.5, n)
    return before.tolist(), (before + num_scored * random.normal(0.05, 0.1, n)).tolist(), num_scored.tolist()


def test_perplexitys_matches_an_independent_one() -> None:
    before, after, num_scored = losses(120)
    found = perplexity_bootstrap(before, after, num_scored)
    interval = found.percentile()
    old, new, tokens, random = *map(np.array, (before, after, num_scored)), np.random.default_rng(1)

    def change(old: Any, new: Any, tokens: Any) -> float:
        return math.exp(new.sum() / tokens.sum()) - math.exp(old.sum() / tokens.sum())

    drawn = [random.integers(0, 120, 120) for _ in range(10_000)]
    changes = [change(old[units], new[units], tokens[units]) for units in drawn]
    assert ends(interval) == pytest.approx(tuple(np.percentile(changes, [2.5, 97.5])), abs=0.1)
    assert found.figure == pytest.approx(change(old, new, tokens))
    assert interval.low < found.figure < interval.high
    assert (interval.confidence, interval.num_draws) == (0.95, 10_000)
    assert ends(found.bca()) == pytest.approx(scipys_bca(found, (old, new, tokens), change, paired=True), abs=1e-9)


def test_perplexitys_keeps_windows_with_their_pair_and_their_tokens() -> None:
    """Every token costs as much more: the ratio of the perplexities is the same whatever is drawn."""
    before, _, num_scored = losses(50)
    after = [loss + 0.1 * tokens for loss, tokens in zip(before, num_scored, strict=True)]
    narrow = perplexity_bootstrap(before, after, num_scored).percentile()
    flat = [4.0 * tokens for tokens in num_scored]
    exact = perplexity_bootstrap(flat, [1.1 * loss for loss in flat], num_scored).percentile()
    assert ends(exact) == pytest.approx([math.exp(4.4) - math.exp(4.0)] * 2)
    assert 0 < narrow.low < narrow.high
    assert perplexity_bootstrap(before, before, num_scored).percentile().high == 0.0


def test_a_broken_models_interval_is_still_a_number() -> None:
    found = perplexity_bootstrap([3.0, 3.0], [5000.0, 3.0], [1, 1], num_draws=200)
    assert math.isfinite(found.percentile().high)
    bca = found.bca()
    assert bca is None or math.isfinite(bca.high)


def test_prompts_not_completions_are_drawn() -> None:
    """Completions of a prompt are no independent evidence: 25 copies of each leave the interval as it was."""
    before, after = pair(30)
    many = paired_bootstrap(before.unsqueeze(1).repeat(1, 25), after.unsqueeze(1).repeat(1, 25))
    assert both(many) == pytest.approx(both(paired_bootstrap(before, after)), abs=1e-12)


def test_two_stages_match_a_slow_loop() -> None:
    changes = nested_changes(1, 12, 3, between=0.1, within=0.4)[:, :, 0]
    found, random, means = two_stage_bootstrap(torch.zeros(12, 3), changes), np.random.default_rng(0), []
    for _ in range(2_000):
        prompts = random.integers(0, 12, 12)
        means.append(np.mean([changes[prompt, random.integers(0, 3, 3)].mean() for prompt in prompts]))
    assert ends(found.percentile()) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.02)
    assert found.figure == pytest.approx(float(changes.mean()))
    assert float(found.draws.std()) == pytest.approx(np.std(means), rel=0.06)


def test_two_stages_of_one_completion_are_one_stage() -> None:
    before, after = pair(40)
    two = two_stage_bootstrap(before.unsqueeze(1), after.unsqueeze(1)).percentile()
    assert ends(two) == pytest.approx(ends(paired_bootstrap(before, after).percentile()), abs=0.005)


@pytest.mark.parametrize(("between", "within", "twice"), [(0.0, 0.4, 1.75), (0.4, 0.1, 1.0), (0.2, 0.4, 1.38)])
def test_two_stages_count_the_luck_of_completions_twice(between: float, within: float, twice: float) -> None:
    """Variances of the draws, over the true variance of the mean: the first stage alone has it right."""
    runs, n, j = 200, 50, 4
    changes = nested_changes(runs, n, j, between, within)
    true = (between**2 + within**2 / j) / n
    one, two = (
        float(np.mean([found.draws.var() for found in founds])) / true
        for founds in (bootstrap_means(changes.mean(1), 400), two_stage_means(changes, 400))
    )
    assert one == pytest.approx((n - 1) / n, abs=0.06)
    assert two == pytest.approx(twice, abs=0.1)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """300 runs in which only the completions' luck differs; two stages cover more than was asked for."""
    runs, truth = 300, -0.1
    changes = nested_changes(runs, 60, 4, between=0.05, within=0.4, shift=truth)
    founds = bootstrap_means(changes.mean(1), 1000)

    def covered(intervals: list[Interval | None]) -> float:
        return float(np.mean([low <= truth <= high for low, high in map(ends, intervals)]))

    assert covered([found.percentile() for found in founds]) == pytest.approx(0.95, abs=0.035)
    assert covered([found.bca() for found in founds]) == pytest.approx(0.95, abs=0.035)
    assert covered([found.percentile(0.6) for found in founds]) == pytest.approx(0.6, abs=0.08)
    assert covered([found.percentile() for found in two_stage_means(changes, 1000)]) >= 0.98


def test_draws_are_seeded_and_chunked_draws_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = pair(40)
    assert both(paired_bootstrap(before, after, seed=3)) == both(paired_bootstrap(before, after, seed=3))
    assert both(paired_bootstrap(before, after, seed=3)) != both(paired_bootstrap(before, after, seed=4))
    nested = (after - before).reshape(10, 4)

    def drawn() -> list[float]:
        one, windows = paired_bootstrap(before, after, 1000), perplexity_bootstrap(*losses(40), num_draws=1000)
        two = two_stage_bootstrap(torch.zeros(10, 4), nested, 1000)
        assert len(one.draws) == len(windows.draws) == len(two.draws) == 1000
        return [*both(one), *both(windows)]

    whole = drawn()
    monkeypatch.setattr(room, "_BLOCK_BYTES", 8 * 40 * 50)
    assert drawn() == pytest.approx(whole, abs=1e-12)


def test_figures_of_the_same_prompts_share_their_draws() -> None:
    changes = [after - before for before, after in (pair(40, seed=seed) for seed in range(3))]
    together = bootstrap_means(torch.stack(changes, dim=1), 500)
    for change, found in zip(changes, together, strict=True):
        assert both(found) == pytest.approx(both(paired_bootstrap(torch.zeros(40), change, 500)), abs=1e-12)


def test_wider_confidence_wider_interval() -> None:
    found = paired_bootstrap(*pair(40))
    narrow, wide = found.percentile(0.5), found.percentile(0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_bad_settings_are_refused() -> None:
    found = paired_bootstrap([0.1, 0.3], [0.2, 0.1])
    for interval in (found.percentile, found.bca):
        with pytest.raises(ValueError, match=r"`confidence` must lie between 0 and 1, got 95\."):
            interval(95)
    with pytest.raises(ValueError, match=r"`num_draws` must be at least 1, got 0\."):
        paired_bootstrap([0.1], [0.2], num_draws=0)


def test_weights_of_units_are_their_counts_and_values_of_one_unit_go_together() -> None:
    weights = unit_weights(["a", "b", "b", "c"], num_draws=4000, seed=3)
    assert weights.shape == (4000, 4)
    assert np.allclose(weights.sum(1), 1)
    assert (weights[:, 1] == weights[:, 2]).all()
    units = np.stack([weights[:, 0], weights[:, 1], weights[:, 3]], 1)
    counts = units / units.sum(1, keepdims=True) * 3
    assert np.allclose(counts, counts.round())
    assert counts.mean(0) == pytest.approx([1, 1, 1], abs=0.05)
    assert (weights == unit_weights(["a", "b", "b", "c"], num_draws=4000, seed=3)).all()


def test_weights_give_the_draws_of_means_their_spread() -> None:
    values = np.random.default_rng(0).normal(0, 1, 50)
    draws = unit_weights([str(place) for place in range(50)], num_draws=20_000) @ values
    (expected,) = bootstrap_means(torch.tensor(values)[:, None], 20_000)
    interval = expected.percentile(0.95)
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([interval.low, interval.high], abs=0.01)
