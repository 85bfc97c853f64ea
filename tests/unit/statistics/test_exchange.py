"""The exchange of the models against scipy's permutation test, shift by shift, and at an exact null."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from sparc3_lightning.statistics import intervals as room
from sparc3_lightning.statistics.p_values import exchange_tests, sign_flip_p_values
from tests.unit.statistics.single import sign_flip_p_value


def models(num_units: int, num_draws: int, num_figures: int = 2) -> Tensor:
    """Values (N, 1 + D, M) in tenths, so that there are ties; the pruned model's are lower."""
    generator = torch.Generator().manual_seed(10 * num_units + num_draws)
    values = torch.rand(num_units, 1 + num_draws, num_figures, generator=generator, dtype=torch.float64)
    values[:, 0] -= 0.25
    return values.round(decimals=1)


def ones(num_units: int) -> Tensor:
    return torch.ones(num_units, dtype=torch.float64)


def scipys(values: Tensor, sizes: Tensor, shift: float = 0.0, alternative: str = "two-sided") -> float:
    """p of the pruned model's sum against the mean of the draws', its values shifted back."""
    columns = values.numpy().T.copy()
    columns[0] -= shift * sizes.numpy()

    def difference(pruned: Any, *draws: Any, axis: int) -> Any:
        return (pruned.sum(axis) - np.mean(draws, axis=0).sum(axis)).round(12)

    every: dict[str, Any] = {"permutation_type": "samples", "vectorized": True, "axis": -1, "n_resamples": np.inf}
    return float(stats.permutation_test(tuple(columns), difference, alternative=alternative, **every).pvalue)


@pytest.mark.parametrize(("num_units", "num_draws"), [(2, 1), (8, 1), (2, 4), (3, 2), (5, 2), (3, 3)])
def test_p_values_are_scipys(num_units: int, num_draws: int) -> None:
    values = models(num_units, num_draws)
    found = exchange_tests(values, ones(num_units), num_draws=10**5)
    for figure in range(2):
        expected = scipys(values[..., figure], ones(num_units))
        assert found[figure].p_value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("num_units", "num_draws"), [(8, 1), (3, 3), (5, 2)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_interval_is_where_scipys_p_value_passes_half_of_alpha(
    num_units: int, num_draws: int, weighted: bool
) -> None:
    values = models(num_units, num_draws)
    sizes = torch.arange(1.0, num_units + 1, dtype=torch.float64) if weighted else ones(num_units)
    for figure, found in enumerate(exchange_tests(values, sizes, num_draws=10**5, confidence=0.8)):
        column, ends = values[..., figure], found.interval
        for end, outward, side in ((ends.low, -1e-6, "greater"), (ends.high, 1e-6, "less")):
            assert scipys(column, sizes, end + outward, side) <= 0.1 < scipys(column, sizes, end - outward, side)
        assert ends.confidence == 0.8


def test_drawn_exchanges_agree_with_all_of_them() -> None:
    values = models(5, 2)
    drawn, exact = exchange_tests(values, ones(5), 7_000), exchange_tests(values, ones(5), 6**5)
    assert drawn != exact
    for one, other in zip(drawn, exact, strict=True):
        assert one.p_value == pytest.approx(other.p_value, abs=0.015)
        assert one.interval.low == pytest.approx(other.interval.low, abs=0.05)
        assert one.interval.high == pytest.approx(other.interval.high, abs=0.05)


def test_one_draw_is_the_sign_flip_test() -> None:
    values = models(60, 1, 1)
    (found,) = exchange_tests(values, ones(60), 20_000)
    assert found.p_value == pytest.approx(sign_flip_p_value(values[:, 1, 0], values[:, 0, 0], 20_000), abs=0.005)


@pytest.mark.parametrize(("num_units", "num_draws"), [(1, 1), (1, 4), (2, 2)])
def test_few_units_have_an_interval_of_less_confidence(num_units: int, num_draws: int) -> None:
    """The pruned model below every draw of every unit: the least p-value that there is."""
    values = torch.rand(num_units, 1 + num_draws, 1, dtype=torch.float64)
    values[:, 0] = -1.0
    (found,) = exchange_tests(values, ones(num_units), num_draws=120**2)
    arrangements = (1 + num_draws) ** num_units
    assert found.p_value == found.p_value_least == pytest.approx(min(1.0, 2 / arrangements))
    assert found.interval.confidence == pytest.approx(1 - found.p_value_least)
    columns = list(itertools.product(range(1 + num_draws), repeat=num_units))[1:]
    shifts = [
        sum(float(values[unit, 0, 0] - values[unit, model, 0]) for unit, model in enumerate(chosen))
        / sum(model > 0 for model in chosen)
        for chosen in columns
    ]
    assert (found.interval.low, found.interval.high) == pytest.approx((min(shifts), max(shifts)))


def test_figures_share_the_exchanges_and_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    values = models(30, 3, 4)
    together = exchange_tests(values, ones(30), 1000)
    monkeypatch.setattr(room, "_BLOCK_BYTES", 8 * 30 * 15 * 7)
    assert room.block_rows(30 * 15) == 7
    for figure in range(4):
        (alone,) = exchange_tests(values[..., figure : figure + 1], ones(30), 1000)
        assert alone.p_value == together[figure].p_value
        assert alone.interval.low == pytest.approx(together[figure].interval.low, abs=1e-9)


def test_models_that_are_all_alike_are_no_evidence() -> None:
    (found,) = exchange_tests(torch.full((40, 4, 1), 0.3, dtype=torch.float64), ones(40))
    assert (found.p_value, found.interval.low, found.interval.high) == (1.0, 0.0, 0.0)


def test_an_exact_null_is_rejected_no_more_often_than_said() -> None:
    """93 prompts, a tenth toxic by luck alone: 2.5 % on either side; sign flips against the mean say 'fell' too often.

    Each of 2,000 runs has a figure of its own, all under the same exchanges.
    """
    generator = torch.Generator().manual_seed(1)
    values = (torch.rand(93, 6, 2_000, generator=generator) < 0.1).double()
    change = (values[:, 0] - values[:, 1:].mean(dim=1)).mean(dim=0).numpy()
    flipped = np.array(sign_flip_p_values(values[:, 0] - values[:, 1:].mean(dim=1), 2_000)) < 0.05
    found = exchange_tests(values, ones(93), 2_000)
    exchanged = np.array([one.p_value for one in found]) < 0.05
    assert (flipped & (change < 0)).mean() > 0.035
    assert (exchanged & (change < 0)).mean() <= 0.025 + 2 * (0.025 * 0.975 / 2_000) ** 0.5
    assert (exchanged & (change > 0)).mean() <= 0.025 + 2 * (0.025 * 0.975 / 2_000) ** 0.5
    outside = np.array([one.interval.high < 0 or one.interval.low > 0 for one in found])
    assert (outside == exchanged).mean() > 0.995  # but where p is alpha itself
