"""Several figures at once give what each alone gives."""

import pytest
import torch

from sparc3_lightning.evaluation.pairing import PairedTest, Pairs
from sparc3_lightning.metrics import (
    paired_bootstrap,
    power,
    rank_biserial,
    share_improved,
    sign_flip_p_value,
    standardised_effect,
    two_stage_bootstrap,
    wilcoxon_p_value,
)
from sparc3_lightning.statistics.signs import paired_change


def pairs(*shape: int, seed: int, lower_is_better: bool = True) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    before = torch.rand(shape, generator=generator, dtype=torch.float64).round(decimals=1)
    return Pairs(before, (before * 0.9).round(decimals=1), lower_is_better)


FIGURES = [
    pairs(30, 4, seed=0), pairs(20, seed=1), pairs(30, 4, seed=2, lower_is_better=False), pairs(30, seed=3),
    pairs(30, 2, seed=4), pairs(20, 1, seed=5),
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(FIGURES)))
def test_each_figure_has_its_own_statistics(place: int) -> None:
    test = PairedTest(num_draws=300, seed=7, confidence=0.9, wanted_power=0.7)
    found = test.several(FIGURES)[place]
    before, after = FIGURES[place].before, FIGURES[place].after
    bootstrap, change = paired_bootstrap(before, after, 300, 7), paired_change(before, after)
    assert (found.before, found.after) == (float(before.mean()), float(after.mean()))
    assert (found.interval.low, found.interval.high) == pytest.approx(
        (bootstrap.percentile(0.9).low, bootstrap.percentile(0.9).high), abs=1e-12
    )
    bca = bootstrap.bca(0.9)
    assert found.interval_bca is not None
    assert bca is not None
    assert (found.interval_bca.low, found.interval_bca.high) == pytest.approx((bca.low, bca.high), abs=1e-12)
    assert found.p_value == sign_flip_p_value(before, after, 300, 7)
    assert found.p_value_wilcoxon == wilcoxon_p_value(before, after)
    assert found.effect_size == pytest.approx(standardised_effect(change))
    assert found.rank_biserial == pytest.approx(rank_biserial(change))
    assert found.power == power(after - before, alpha=0.1, wanted=0.7)
    lower = FIGURES[place].lower_is_better
    assert found.share_improved == share_improved(before, after, lower)
    assert found.share_worsened == share_improved(before, after, not lower)
    assert found.num_pairs == len(before)
    if before.ndim == 1 or before.shape[1] == 1:
        assert found.interval_two_stage is None
    else:
        two = two_stage_bootstrap(before, after, 300, 7).percentile(0.9)
        assert found.interval_two_stage is not None
        assert (found.interval_two_stage.low, found.interval_two_stage.high) == pytest.approx((two.low, two.high))


def test_of_many_tests_more_signs_are_drawn_for_each() -> None:
    """All 93 prompts fell: p is the least that there is, and 500 times it is still far below 0.05."""
    before = torch.rand(93, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, many = (PairedTest(num_draws=1000, num_tests=tests)(before, before - 0.1) for tests in (1, 500))
    assert one.p_value == one.p_value_least == pytest.approx(1 / 1001)
    assert many.p_value == many.p_value_least == pytest.approx(1 / 200_001)
    assert (many.interval, many.interval.num_draws) == (one.interval, 1000)


def test_alone_a_figure_is_the_same() -> None:
    test = PairedTest(num_draws=300)
    alone, together = test(FIGURES[0].before, FIGURES[0].after), test.several(FIGURES)[0]
    assert alone.p_value == together.p_value
    assert alone.interval.low == pytest.approx(together.interval.low, abs=1e-12)
    assert test.several([]) == []
