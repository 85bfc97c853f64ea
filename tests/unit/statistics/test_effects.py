"""Sizes of effects by hand and by numpy; power by simulation."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparc3_lightning.statistics.effects import power, rank_biserial, standardised_effect, variance_components
from sparc3_lightning.statistics.p_values import sign_flip_p_values
from tests.unit.statistics.pairs import nested_changes, pair


def seen(changes: Tensor) -> float:
    """Share of runs whose change is significant; changes (N, runs)."""
    return float(np.mean(np.array(sign_flip_p_values(changes, 2000)) < 0.05))


def test_the_standardised_effect_is_cohens_with_hedges_correction() -> None:
    before, after = pair(30)
    change = (after - before).numpy()
    cohen = change.mean() / change.std(ddof=1)
    assert standardised_effect(after - before) == pytest.approx(cohen * (1 - 3 / (4 * 29 - 1)), rel=1e-3)
    assert standardised_effect(before - after) == pytest.approx(-standardised_effect(after - before))  # type: ignore[operator]
    assert standardised_effect(5 * (after - before)) == pytest.approx(standardised_effect(after - before))


def test_the_correction_undoes_the_bias_of_few_prompts() -> None:
    changes = 0.5 + torch.randn(8_000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [standardised_effect(change) for change in changes]
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)
    assert float((changes.mean(1) / changes.std(1)).mean()) > 0.6


@pytest.mark.parametrize("change", [[0.3], [0.3, 0.1], [0.2] * 9, [0.0] * 9])
def test_without_a_spread_there_is_no_standardised_effect(change: list[float]) -> None:
    assert standardised_effect(torch.tensor(change, dtype=torch.float64)) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ([-0.1, -0.2, -0.3], -1.0),
        ([0.1, 0.2, 0.3, 0.0], 1.0),
        ([-0.1, 0.1], 0.0),
        ([0.1, -0.2, -0.3], -4 / 6),
        ([0.0, 0.1, -0.2, -0.3], (2 - 3 - 4) / 9),  # the zero has the lowest rank
        ([0.0, 0.0], None),
    ],
)
def test_rank_biserial_by_hand(change: list[float], expected: float | None) -> None:
    found = rank_biserial(torch.tensor(change, dtype=torch.float64))
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(("between", "within"), [(0.3, 0.5), (0.0, 0.5), (0.5, 0.0)])
def test_variance_components_find_the_truth(between: float, within: float) -> None:
    changes = nested_changes(1, 4000, 4, between, within)[:, :, 0]
    found = variance_components(changes)
    assert found == pytest.approx((between**2, within**2), abs=0.012)


def test_prompts_that_differ_by_luck_alone_have_no_variance_below_zero() -> None:
    alternating = torch.tensor([[0.1, -0.1]] * 10, dtype=torch.float64)
    assert variance_components(alternating) == (0.0, pytest.approx(0.02))


@pytest.mark.parametrize(("j", "shift"), [(1, -0.15), (4, -0.1)])
def test_as_many_prompts_as_were_said_see_the_effect_with_the_power_wanted(j: int, shift: float) -> None:
    pilot = nested_changes(1, 3000, j, between=0.2, within=0.4, shift=shift)[:, :, 0]
    plan = power(pilot)
    assert plan.num_needed is not None
    runs = nested_changes(500, plan.num_needed, j, between=0.2, within=0.4, shift=float(pilot.mean()))
    assert seen(runs.mean(1)) == pytest.approx(0.8, abs=0.06)
    fewer = nested_changes(500, plan.num_needed // 2, j, between=0.2, within=0.4, shift=float(pilot.mean()))
    assert seen(fewer.mean(1)) < 0.65


def test_with_25_completions_fewer_prompts_are_needed_and_they_are_enough() -> None:
    pilot = nested_changes(1, 3000, 4, between=0.2, within=0.6, shift=-0.1)[:, :, 0]
    plan = power(pilot)
    assert plan.num_needed_with_25 is not None
    assert plan.num_needed is not None
    assert plan.num_needed_with_25 < 0.6 * plan.num_needed
    assert (plan.sd_between, plan.sd_within) == pytest.approx((0.2, 0.6), abs=0.03)
    runs = nested_changes(500, plan.num_needed_with_25, 25, between=0.2, within=0.6, shift=float(pilot.mean()))
    assert seen(runs.mean(1)) == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("n", [12, 60])
def test_the_smallest_change_is_seen_with_the_power_wanted(n: int) -> None:
    change = nested_changes(1, n, 1, between=0.0, within=0.4)[:, 0, 0]
    smallest = power(change).smallest_change
    assert smallest is not None
    runs = nested_changes(800, n, 1, between=0.0, within=float(change.std()), shift=smallest)
    assert seen(runs.mean(1)) == pytest.approx(0.8, abs=0.06)


def test_more_power_takes_more() -> None:
    change = pair(60)[1] - pair(60)[0]
    usual, more = power(change), power(change, wanted=0.95)
    assert usual.num_needed is not None
    assert more.num_needed is not None
    assert usual.smallest_change is not None
    assert more.smallest_change is not None
    assert more.num_needed > usual.num_needed
    assert more.smallest_change > usual.smallest_change
    assert power(change, alpha=0.01).num_needed > usual.num_needed  # type: ignore[operator]


def test_what_cannot_be_known_is_none_and_says_why() -> None:
    one = power(pair(30)[1] - pair(30)[0])
    assert (one.num_needed_with_25, one.sd_between, one.sd_within) == (None, None, None)
    assert one.num_needed is not None
    assert "several completions" in one.missing
    unchanged = power(torch.tensor([[0.1, 0.3], [-0.1, -0.3]] * 10, dtype=torch.float64))
    assert unchanged.smallest_change is not None
    assert (unchanged.num_needed, unchanged.num_needed_with_25) == (None, None)
    assert "no change was found" in unchanged.missing
    assert "no change was found" in power(torch.zeros(20, 4)).missing
    constant = power(torch.full((20, 4), -0.3, dtype=torch.float64))
    assert (constant.smallest_change, constant.num_needed) == (None, None)
    assert "same amount" in constant.missing
    assert power(pair(30)[0].reshape(10, 3)).missing == ""


def test_signs_of_few_prompts_are_never_significant() -> None:
    change = torch.tensor([-0.5, -0.4, -0.6, -0.5, -0.45], dtype=torch.float64)
    five = power(change)
    assert five.smallest_change is None
    assert "so few prompts" in five.missing
    assert five.num_needed == 6
    assert power(torch.cat([change, change[:1]])).smallest_change is not None
    assert math.isfinite(power(change, alpha=0.2).smallest_change or math.inf)
