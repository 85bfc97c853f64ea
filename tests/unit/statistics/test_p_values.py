"""Paired statistics against slow references and known cases."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from sparc3_lightning.statistics import intervals
from sparc3_lightning.statistics.p_values import PairedTest, least_p_value, sign_flip_p_values, signed_ranks
from tests.unit.statistics.pairs import pair
from tests.unit.statistics.single import sign_flip_p_value, wilcoxon_p_value


@pytest.mark.parametrize("n", [1, 5, 9])
def test_few_prompts_are_enumerated(n: int) -> None:
    before, after = pair(n)
    change = [float(x) for x in after - before]
    observed = abs(math.fsum(change)) - 1e-9
    patterns = list(itertools.product([-1, 1], repeat=n))
    hits = sum(abs(math.fsum(s * c for s, c in zip(signs, change, strict=True))) >= observed for signs in patterns)
    assert sign_flip_p_value(before, after) == pytest.approx(hits / len(patterns))


@pytest.mark.parametrize("n", [2, 6, 11])
def test_signs_are_flipped_as_scipy_flips_a_sample(n: int) -> None:
    changes = torch.stack([after - before for before, after in (pair(n, seed=seed) for seed in range(3))], dim=1)
    for column, found in zip(changes.unbind(1), sign_flip_p_values(changes), strict=True):
        expected = stats.permutation_test((column.numpy(),), np.mean, permutation_type="samples").pvalue
        assert found == pytest.approx(expected, abs=1e-12)


def test_equal_changes_tie_though_they_are_rounded() -> None:
    """Changes of 0.1 with any signs sum to 0.1 times a whole number, but for the last digit."""
    change = torch.tensor([0.3, -0.1, -0.1, -0.1, 0.7 - 0.6], dtype=torch.float64)
    means = [abs(3 * a + b + c + d + e) for a, b, c, d, e in itertools.product([-1, 1], repeat=5)]
    assert sign_flip_p_values(change.unsqueeze(1)) == [sum(mean >= 1 for mean in means) / 32]


@pytest.mark.parametrize("n", [4, 30])
def test_the_least_p_value_is_that_of_changes_that_all_agree(n: int) -> None:
    agree = torch.full((n, 1), -0.3, dtype=torch.float64)
    assert sign_flip_p_values(agree, 1000) == [least_p_value(n, 1000)]


@pytest.mark.parametrize(("num_tests", "alpha"), [(1, 0.05), (25, 0.05), (260, 0.05), (500, 0.05), (500, 0.01)])
def test_draws_are_enough_for_the_correction_of_many_tests(num_tests: int, alpha: float) -> None:
    draws = PairedTest(confidence=1 - alpha, num_tests=num_tests).num_patterns
    assert draws == max(10_000, round(20 * num_tests / alpha))
    assert num_tests * least_p_value(93, draws) <= alpha / 20


def test_many_prompts_are_drawn_and_the_value_is_never_zero() -> None:
    before = torch.zeros(100)
    assert sign_flip_p_value(before, before - 1.0) == pytest.approx(1 / 10_001)


def test_p_value_is_uniform_where_nothing_changed() -> None:
    values = [sign_flip_p_value(*pair(30, shift=0.0, seed=seed), num_draws=999) for seed in range(200)]
    assert np.mean([value < 0.1 for value in values]) == pytest.approx(0.1, abs=0.065)
    assert np.mean(values) == pytest.approx(0.5, abs=0.08)


def test_figures_share_their_signs_and_chunked_draws_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [after - before for before, after in (pair(40, seed=seed, shift=-0.03) for seed in range(3))]
    alone = [sign_flip_p_values(change.unsqueeze(1), 1000)[0] for change in changes]
    assert 0.01 < max(alone) < 1
    monkeypatch.setattr(intervals, "_BLOCK_BYTES", 8 * 40 * 9 * 7)
    assert intervals.block_rows(40 * 9) == 7
    assert sign_flip_p_values(torch.stack(changes, dim=1), 1000) == alone


def test_ranks_are_scipys_with_the_signs_of_the_changes() -> None:
    change = torch.tensor([0.3, -0.1, 0.0, 0.1, -0.5, 0.0, 0.3 - 1e-16], dtype=torch.float64)
    ranks = stats.rankdata([0.3, 0.1, 0.0, 0.1, 0.5, 0.0, 0.3])
    assert signed_ranks(change).tolist() == (ranks * np.array([1, -1, 0, 1, -1, 0, 1])).tolist()


def test_rounding_does_not_untie_equal_changes() -> None:
    before, after = torch.tensor([0.1, 0.2, 0.7, 0.4]), torch.tensor([0.2, 0.3, 0.8, 0.4])
    change = after.double() - before.double()  # float32 scores: three changes of 0.1 that differ in the 8th digit
    assert len(set(change.tolist())) == 4
    exact = intervals.paired_change([0.1, 0.2, 0.7, 0.4], [0.2, 0.3, 0.8, 0.4])
    assert len(set(exact.tolist())) > 2
    assert signed_ranks(exact).tolist() == [3, 3, 3, 0]


@pytest.mark.parametrize("decimals", [1, 12])  # with ties and zeros; without
@pytest.mark.parametrize("n", [5, 9])
def test_wilcoxon_is_scipys_over_all_signs(n: int, decimals: int) -> None:
    before, after = (side.round(decimals=decimals) for side in pair(n, shift=-0.05))
    change = (after - before).round(decimals=12).numpy()
    assert (0.0 in change) is (decimals == 1)
    every_sign = stats.PermutationMethod(n_resamples=2**n)
    expected = stats.wilcoxon(change, zero_method="pratt", method=every_sign).pvalue
    assert wilcoxon_p_value(before, after) == pytest.approx(expected)


def test_wilcoxon_of_many_prompts_is_the_sign_flip_test_of_their_ranks() -> None:
    for seed in range(5):
        before, after = (side.round(decimals=1) for side in pair(150, shift=-0.03, seed=seed))
        ranks = signed_ranks((after - before).round(decimals=12))
        assert wilcoxon_p_value(before, after) == pytest.approx(sign_flip_p_values(ranks.unsqueeze(1))[0], abs=0.02)


def test_wilcoxon_of_a_few_changes_among_many_zeros_counts_every_sign() -> None:
    """Three prompts of 21 changed, two of them by as much either way: the ranks' sum is 19, the least there is."""
    before = torch.zeros(21, dtype=torch.float64)
    after = torch.tensor([0.1, -0.2, 0.2] + [0.0] * 18, dtype=torch.float64)
    assert wilcoxon_p_value(before, after) == 1.0
    assert stats.wilcoxon(after.numpy(), zero_method="pratt").pvalue < 0.7
    every_sign = stats.PermutationMethod(n_resamples=2**6)
    few = torch.tensor([-0.3, -0.1, -0.2, -0.2, 0.0, 0.0], dtype=torch.float64)
    expected = stats.wilcoxon(few.numpy(), zero_method="pratt", method=every_sign).pvalue
    assert wilcoxon_p_value(torch.zeros(6).double(), few) == pytest.approx(expected) == 0.125


def test_a_few_prompts_can_decide_the_mean_but_not_the_ranks() -> None:
    before = torch.zeros(80, dtype=torch.float64)
    after = 0.01 * torch.randn(80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    after[:6] = -0.9
    assert sign_flip_p_value(before, after) < 0.05 < 0.2 < wilcoxon_p_value(before, after)


def test_no_change_at_all_is_no_evidence() -> None:
    same = torch.rand(60)
    assert sign_flip_p_value(same, same) == wilcoxon_p_value(same, same) == 1.0


@pytest.mark.parametrize(
    ("before", "after"),
    [([0.1, 0.2], [0.1]), ([], []), ([0.1, math.nan], [0.1, 0.2]), ([0.1], [math.inf]), ([[[0.1]]], [[[0.1]]])],
)
def test_what_cannot_be_paired_is_refused(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match="`before` and `after` must be"):
        intervals.paired_change(before, after)
