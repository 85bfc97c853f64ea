"""Intervals of circuits' areas: samples are drawn anew, and with them every figure that an area is made of."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from sparc3_lightning.evaluation import Evaluation
from sparc3_lightning.metrics.measure import Column
from sparc3_lightning.statistics.intervals import bootstrap_means
from sparc3_lightning.statistics.p_values import PairedTest
from sparc3_lightning.trials import EMPTY, HELD_OUT, IN_SAMPLE, WHOLE
from sparc3_lightning.trials.circuit import CircuitTrial, Row, circuit_rows
from sparc3_lightning.trials.circuit_areas import Resamples, area_rows, end_rows, with_intervals

TEST = PairedTest(num_draws=2000)
NUM = 40


def answered(
    method: str, share: float, asked: dict[str, Sequence[float]], draw: str = "a0", ablation: str = "zero"
) -> CircuitTrial:
    """A trial whose samples' logit differences are these."""
    columns = {}
    for name, differences in asked.items():
        values = torch.tensor(differences, dtype=torch.float64)
        for measure, found in (("accuracy", (values > 0).double()), ("logit_difference", values)):
            columns[f"{name}/{measure}"] = Column(f"{name}/{measure}", "", "higher", "prompt", "mean",
                                                  [str(place) for place in range(len(values))], found)  # fmt: skip
    one = CircuitTrial(task="a", draw=draw, method=method, ablation=ablation, share=share, share_kept=share)  # type: ignore[arg-type]
    one.keep(Evaluation({}, None, columns))
    return one


def curve(level: float, noise: float, seed: int, draw: str, asked: Sequence[str], method: str) -> list[CircuitTrial]:
    """A method that keeps so much of a difference of 4, of samples each of which is harder or easier for all."""
    drawn = {name: np.random.default_rng([len(name), seed]) for name in asked}
    hard = {name: np.random.default_rng(len(name)).normal(0, 0.5, NUM) for name in asked}
    found = []
    for share in (0.1, 0.5, 1.0):
        kept = min(1.0, level + share / 2) if share < 1 else 1.0
        values = {name: 4 * kept + hard[name] + noise * drawn[name].normal(0, 1, NUM) for name in asked}
        found.append(answered(method, share, values, draw))
    return found


def ends(draw: str, asked: Sequence[str]) -> list[CircuitTrial]:
    hard = {name: np.random.default_rng(len(name)).normal(0, 0.5, NUM) for name in asked}
    return [answered(WHOLE, 1.0, {name: 4 + one for name, one in hard.items()}, draw),
            answered(EMPTY, 0.0, {name: 0.1 * one for name, one in hard.items()}, draw)]  # fmt: skip


def rows_of(trials: Sequence[CircuitTrial], test: PairedTest = TEST) -> dict[str, Row]:
    found = with_intervals(area_rows(circuit_rows(trials)), Resamples(trials, {}, test))
    return {f"{row['method']}, {row['asked']}": row for row in found}


def test_every_area_lies_in_its_interval_and_the_best_is_told_from_the_others() -> None:
    trials = ends("a0", [HELD_OUT])
    for method, level, seed in (("good", 0.5, 1), ("equal", 0.44, 2), ("poor", 0.1, 3)):
        trials += curve(level, 0.5, seed, "a0", [HELD_OUT], method)
    rows = rows_of(trials)
    for row in rows.values():
        for name in ("cpr", "cmd", "accuracy_area"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
            assert row[f"{name}_high"] - row[f"{name}_low"] < 0.2
    good, equal, poor = (rows[f"{method}, {HELD_OUT}"] for method in ("good", "equal", "poor"))
    assert (good["cmd_behind"], good["cmd_behind_low"], good["cmd_behind_high"]) == (0, 0, 0)
    assert equal["cmd_behind"] == pytest.approx(equal["cmd"] - good["cmd"])
    assert equal["cmd_behind_low"] < 0 < equal["cmd_behind_high"]
    assert 0 < poor["cmd_behind_low"] < poor["cmd_behind"] == pytest.approx(poor["cmd"] - good["cmd"])
    # Samples are hard for all methods: a difference is surer than the areas that it is one of.
    for row in (equal, poor):
        assert row["cmd_behind_high"] - row["cmd_behind_low"] < 1.5 * (row["cmd_high"] - row["cmd_low"])
    assert good["confidence"] == 0.95


def test_an_area_that_is_a_mean_has_the_interval_of_a_mean() -> None:
    """That under accuracy is the mean of the samples' own areas."""
    trials = [*ends("a0", [HELD_OUT]), *curve(-0.2, 2.0, 5, "a0", [HELD_OUT], "lrp")]
    right = np.stack([one.differences[HELD_OUT].numpy() > 0 for one in trials[2:]])
    areas = torch.tensor(np.trapezoid(right.T.astype(float), [0.1, 0.5, 1.0], axis=-1))
    expected = bootstrap_means(areas[:, None], 20_000, 1)[0].percentile(0.95)
    row = rows_of(trials, test=PairedTest(num_draws=20_000))[f"lrp, {HELD_OUT}"]
    assert row["accuracy_area"] == pytest.approx(float(areas.mean()))
    assert row["accuracy_area_low"] == pytest.approx(expected.low, abs=0.01)
    assert row["accuracy_area_high"] == pytest.approx(expected.high, abs=0.01)


def test_ratios_are_made_anew_in_each_resample() -> None:
    """A circuit that keeps exactly half of each sample's difference keeps half of it whatever is drawn."""
    hard = np.random.default_rng(0).normal(4, 3, NUM)
    trials = [answered(method, share, {HELD_OUT: level * hard})
              for method, share, level in ((WHOLE, 1.0, 1.0), (EMPTY, 0.0, 0.0), ("lrp", 0.5, 0.5), ("lrp", 1.0, 1.0))
              ]  # fmt: skip
    row = rows_of(trials)[f"lrp, {HELD_OUT}"]
    assert (row["cpr_low"], row["cpr_high"]) == (pytest.approx(0.5 * 0.75), pytest.approx(0.5 * 0.75))


def test_held_out_samples_are_drawn_alike_for_all_draws_and_own_ones_are_not() -> None:
    """Two draws with the same held-out figures say no more than one; own samples of two say more."""
    asked = (IN_SAMPLE, HELD_OUT)
    one, other = ([*ends(draw, asked), *curve(0.2, 1.0, 1, draw, asked, "lrp")] for draw in ("a0", "a1"))
    alone, both = rows_of(one), rows_of([*one, *other])

    def width(row: Row) -> float:
        return float(row["cmd_high"] - row["cmd_low"])

    key = f"lrp, {HELD_OUT}"
    assert width(both[key]) == pytest.approx(width(alone[key]), rel=1e-9)
    key = f"lrp, {IN_SAMPLE}"
    assert width(both[key]) == pytest.approx(width(alone[key]) / 2**0.5, rel=0.15)


def test_samples_of_a_scene_are_drawn_together() -> None:
    """What names alone say adds up to 0 over a pair, and so in each resample."""
    likely = np.random.default_rng(0).normal(0, 3, NUM // 2)
    names = np.stack([likely, -likely], 1).ravel()
    trials = [answered(WHOLE, 1.0, {HELD_OUT: 4 + names}), answered(EMPTY, 0.0, {HELD_OUT: names})]
    pairs = {("a0", HELD_OUT): [str(place // 2) for place in range(NUM)]}
    (row,) = end_rows(trials, Resamples(trials, pairs, TEST))
    assert (row["empty"], row["empty_low"], row["empty_high"]) == pytest.approx((0, 0, 0), abs=1e-12)
    assert (row["whole"], row["difference"]) == pytest.approx((4, 4))
    (alone,) = end_rows(trials, Resamples(trials, {}, TEST))
    assert alone["empty_low"] < -0.5 < 0.5 < alone["empty_high"], "drawn one by one they do not"


@pytest.mark.parametrize(("whole", "is_clear"), [([3.0, 2.0, 4.0, 3.0], True), ([0.5, -1.0, 1.5, -1.0], False)])
def test_whether_the_whole_model_does_clearly_better_than_the_empty_circuit(whole: list[float], is_clear: bool) -> None:
    trials = [answered(WHOLE, 1.0, {IN_SAMPLE: whole}), answered("lrp", 0.5, {IN_SAMPLE: whole}),
              answered(EMPTY, 0.0, {IN_SAMPLE: [0.5, -0.5, 0.5, -0.5]})]  # fmt: skip
    (row,) = end_rows(trials, Resamples(trials, {}, TEST))
    assert (row["task"], row["draw"], row["ablation"], row["asked"]) == ("a", "a0", "zero", IN_SAMPLE)
    assert row["difference"] == pytest.approx(sum(whole) / 4)
    assert row["low"] <= row["difference"] <= row["high"]
    assert (row["low"] > 0) == is_clear
    assert row["empty_low"] < row["empty"] == 0 < row["empty_high"]
    assert trials[0].figures == {IN_SAMPLE: {"accuracy": sum(one > 0 for one in whole) / 4,
                                             "logit_difference": pytest.approx(sum(whole) / 4)}}  # fmt: skip
    assert end_rows(trials[:2], Resamples(trials[:2], {}, TEST)) == [], "the empty circuit has failed"


def test_where_a_resample_has_no_faithfulness_there_is_no_interval() -> None:
    """Of two samples one is drawn twice in half of the resamples, and for it the whole model is the empty circuit."""
    trials = [answered(WHOLE, 1.0, {HELD_OUT: [4.0, 1.0]}), answered(EMPTY, 0.0, {HELD_OUT: [0.0, 1.0]}),
              answered("lrp", 0.5, {HELD_OUT: [2.0, 1.0]}), answered("lrp", 1.0, {HELD_OUT: [4.0, 1.0]})]  # fmt: skip
    row = rows_of(trials)[f"lrp, {HELD_OUT}"]
    assert (row["cpr"], row["cpr_low"], row["cpr_high"]) == (0.5 * 0.75, None, None)
    assert row["accuracy_area_low"] == row["accuracy_area"] == 0.5


def test_a_method_that_has_lost_a_draw_is_not_compared() -> None:
    trials = []
    for draw in ("a0", "a1"):
        trials += ends(draw, [HELD_OUT])
        for method in ("lrp", "random") if draw == "a0" else ("random",):
            trials += curve(0.2, 0.1, 1, draw, [HELD_OUT], method)
    rows = rows_of(trials)
    assert rows[f"random, {HELD_OUT}"]["cmd_behind"] == 0
    assert "cmd_behind" not in rows[f"lrp, {HELD_OUT}"]
