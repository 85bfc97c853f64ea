"""Paired statistics against slow references and known cases."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparc3_lightning.metrics import paired_bootstrap, perplexity_bootstrap, share_improved, sign_flip_p_value
from sparc3_lightning.metrics import statistics as room


def pair(n: int, shift: float = -0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    before = torch.rand(n, generator=generator, dtype=torch.float64)
    return before, before + shift + 0.2 * torch.randn(n, generator=generator, dtype=torch.float64)


def test_bootstrap_matches_an_independent_one() -> None:
    before, after = pair(93)
    interval = paired_bootstrap(before, after)
    change = (after - before).numpy()
    random = np.random.default_rng(1)
    means = [random.choice(change, len(change)).mean() for _ in range(10_000)]
    low, high = np.percentile(means, [2.5, 97.5])
    assert interval.low == pytest.approx(low, abs=0.003)
    assert interval.high == pytest.approx(high, abs=0.003)
    assert (interval.confidence, interval.num_draws) == (0.95, 10_000)


def test_bootstrap_keeps_pairs_together() -> None:
    """A constant change has no spread, however far the scores themselves spread."""
    before = torch.rand(50, dtype=torch.float64)
    interval = paired_bootstrap(before, before - 0.25)
    assert interval.low == pytest.approx(-0.25, abs=1e-12)
    assert interval.high == pytest.approx(-0.25, abs=1e-12)


def losses(n: int, seed: int = 0) -> tuple[list[float], list[float], list[int]]:
    """Windows of unlike size; after, every token costs about 0.05 nats more."""
    random = np.random.default_rng(seed)
    num_scored = random.integers(1, 40, n)
    before = num_scored * random.normal(4.0, 0.5, n)
    return before.tolist(), (before + num_scored * random.normal(0.05, 0.1, n)).tolist(), num_scored.tolist()


def test_perplexity_s_bootstrap_matches_an_independent_one() -> None:
    before, after, num_scored = losses(120)
    interval = perplexity_bootstrap(before, after, num_scored)
    old, new, tokens, random = *map(np.array, (before, after, num_scored)), np.random.default_rng(1)
    changes = []
    for _ in range(10_000):
        drawn = random.integers(0, 120, 120)
        total = tokens[drawn].sum()
        changes.append(math.exp(new[drawn].sum() / total) - math.exp(old[drawn].sum() / total))
    low, high = np.percentile(changes, [2.5, 97.5])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.1)
    change = math.exp(sum(after) / sum(num_scored)) - math.exp(sum(before) / sum(num_scored))
    assert interval.low < change < interval.high
    assert (interval.confidence, interval.num_draws) == (0.95, 10_000)


def test_perplexity_s_bootstrap_keeps_windows_with_their_pair_and_their_tokens() -> None:
    """Every token costs as much more: the ratio of the perplexities is the same whatever is drawn."""
    before, _, num_scored = losses(50)
    after = [loss + 0.1 * tokens for loss, tokens in zip(before, num_scored, strict=True)]
    narrow = perplexity_bootstrap(before, after, num_scored)
    flat = [4.0 * tokens for tokens in num_scored]
    exact = perplexity_bootstrap(flat, [1.1 * loss for loss in flat], num_scored)
    assert (exact.low, exact.high) == pytest.approx([math.exp(4.4) - math.exp(4.0)] * 2)
    assert 0 < narrow.low < narrow.high
    assert perplexity_bootstrap(before, before, num_scored).high == 0.0


def test_a_broken_model_s_interval_is_still_a_number() -> None:
    interval = perplexity_bootstrap([3.0, 3.0], [5000.0, 3.0], [1, 1], num_draws=200)
    assert math.isfinite(interval.high)


def test_prompts_not_completions_are_resampled() -> None:
    """Completions of a prompt are no independent evidence: 25 copies of each leave the interval as it was."""
    before, after = pair(30)
    one = paired_bootstrap(before, after)
    many = paired_bootstrap(before.unsqueeze(1).repeat(1, 25), after.unsqueeze(1).repeat(1, 25))
    assert (many.low, many.high) == pytest.approx((one.low, one.high), abs=1e-12)
    assert sign_flip_p_value(before.unsqueeze(1).repeat(1, 25), after.unsqueeze(1).repeat(1, 25)) == pytest.approx(
        sign_flip_p_value(before, after)
    )


def test_draws_are_seeded_and_chunked_draws_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = pair(40)
    assert paired_bootstrap(before, after, seed=3) == paired_bootstrap(before, after, seed=3)
    assert paired_bootstrap(before, after, seed=3) != paired_bootstrap(before, after, seed=4)
    whole = paired_bootstrap(before, after, num_draws=1000), sign_flip_p_value(before, after, num_draws=1000)
    windows = perplexity_bootstrap(*losses(40), num_draws=1000)
    monkeypatch.setattr(room, "_CHUNK_ELEMENTS", 40 * 7)
    assert perplexity_bootstrap(*losses(40), num_draws=1000) == windows
    assert (paired_bootstrap(before, after, 1000), sign_flip_p_value(before, after, 1000)) == whole


def test_wider_confidence_wider_interval() -> None:
    before, after = pair(40)
    narrow, wide = paired_bootstrap(before, after, confidence=0.5), paired_bootstrap(before, after, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("n", [1, 5, 9])
def test_few_prompts_are_enumerated(n: int) -> None:
    before, after = pair(n)
    change = [float(x) for x in after - before]
    observed = abs(math.fsum(change)) - 1e-9
    patterns = list(itertools.product([-1, 1], repeat=n))
    hits = sum(abs(math.fsum(s * c for s, c in zip(signs, change, strict=True))) >= observed for signs in patterns)
    assert sign_flip_p_value(before, after) == pytest.approx(hits / len(patterns))


def test_many_prompts_are_drawn_and_the_value_is_never_zero() -> None:
    before = torch.zeros(100)
    assert sign_flip_p_value(before, before - 1.0) == pytest.approx(1 / 10_001)


def test_p_value_is_uniform_where_nothing_changed() -> None:
    values = [sign_flip_p_value(*pair(30, shift=0.0, seed=seed), num_draws=999) for seed in range(200)]
    assert np.mean([value < 0.1 for value in values]) == pytest.approx(0.1, abs=0.065)
    assert np.mean(values) == pytest.approx(0.5, abs=0.08)


def test_no_change_at_all_is_no_evidence() -> None:
    same = torch.rand(60)
    assert sign_flip_p_value(same, same) == 1.0
    assert share_improved(same, same) == 0.0


def test_share_improved_follows_the_direction() -> None:
    before, after = [0.5, 0.5, 0.5, 0.5], [0.4, 0.6, 0.5, 0.1]
    assert share_improved(before, after) == 0.5
    assert share_improved(before, after, lower_is_better=False) == 0.25
    assert share_improved([[0.5, 0.5]], [[0.9, 0.0]]) == 1.0


@pytest.mark.parametrize(
    ("before", "after"),
    [([0.1, 0.2], [0.1]), ([], []), ([0.1, math.nan], [0.1, 0.2]), ([0.1], [math.inf]), ([[[0.1]]], [[[0.1]]])],
)
def test_what_cannot_be_paired_is_refused(before: list[float], after: list[float]) -> None:
    for statistic in (paired_bootstrap, sign_flip_p_value, share_improved):
        with pytest.raises(ValueError, match="`before` and `after` must be"):
            statistic(before, after)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="confidence"):
        paired_bootstrap([0.1], [0.2], confidence=95)
