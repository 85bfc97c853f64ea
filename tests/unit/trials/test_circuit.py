"""Circuits' tables: faithfulness between empty and whole, areas as MIB has them, draws as bands."""

import numpy as np
import pytest
import torch

from sparc3_lightning.trials import EMPTY, HELD_OUT, IN_SAMPLE, WHOLE
from sparc3_lightning.trials.circuit import (
    Bits,
    CircuitTrial,
    Whose,
    circuit_rows,
    faithfulness,
    overlap_rows,
    part_rows,
)
from sparc3_lightning.trials.circuit_areas import area, area_rows


def trial(draw: str, method: str, share: float, difference: float, accuracy: float = 0.5) -> CircuitTrial:
    figures = {asked: {"logit_difference": difference * scale, "accuracy": accuracy}
               for asked, scale in ((IN_SAMPLE, 1.0), (HELD_OUT, 2.0))}  # fmt: skip
    return CircuitTrial(task=draw[0], draw=draw, method=method, ablation="zero", share=share, share_kept=share,
                        figures=figures)  # fmt: skip


def test_faithfulness_is_0_for_the_empty_circuit_and_1_for_the_whole() -> None:
    assert faithfulness(1.0, 1.0, 5.0) == 0.0
    assert faithfulness(5.0, 1.0, 5.0) == 1.0
    assert faithfulness(7.0, 1.0, 5.0) == 1.5
    assert faithfulness(3.0, 5.0, 5.0) is None


def test_an_area_is_that_of_trapezoids() -> None:
    assert area([0.0, 0.5, 1.0], np.array([0.0, 1.0, 1.0])) == pytest.approx(0.25 + 0.5)


def test_tables_have_every_circuit_and_the_areas_of_each_curve() -> None:
    trials = []
    for draw, middle, accuracy in (("a0", 3.0, 0.75), ("a1", 6.0, 0.25), ("b0", 1.0, 0.5)):
        trials += [trial(draw, WHOLE, 1.0, 5.0, 1.0), trial(draw, EMPTY, 0.0, 1.0, 0.5)]
        trials += [trial(draw, "lrp", 0.5, middle, accuracy), trial(draw, "lrp", 1.0, 5.0, 1.0)]
    rows = circuit_rows(trials)
    assert len(rows) == 2 * len(trials)
    first = next(r for r in rows if (r["draw"], r["method"], r["share"], r["asked"]) == ("a0", "lrp", 0.5, HELD_OUT))
    assert (first["task"], first["faithfulness"]) == ("a", 0.5)
    areas = {(row["task"], row["asked"]): row for row in area_rows(rows)}
    assert set(areas) == {(task, asked) for task in "ab" for asked in (IN_SAMPLE, HELD_OUT)}
    assert (areas["b", IN_SAMPLE]["num_draws"], areas["b", IN_SAMPLE]["cpr"]) == (1, 0.5 * 0.5)
    row = areas["a", IN_SAMPLE]
    assert (row["method"], row["ablation"], row["num_draws"]) == ("lrp", "zero", 2)
    # Half the way from 0.5 to 1, and from 1.25 to 1; over half of the axis.
    assert row["cpr_least"] == pytest.approx(0.5 * 0.75)
    assert row["cpr_largest"] == pytest.approx(0.5 * 1.125)
    assert row["cpr"] == pytest.approx(0.5 * (0.75 + 1.125) / 2)
    assert row["cmd_least"] == pytest.approx(0.5 * 0.125)
    assert row["cmd_largest"] == pytest.approx(0.5 * 0.25)
    # Half the way from 0.75 to 1, and from 0.25 to 1: accuracy as it is.
    assert row["accuracy_area"] == pytest.approx(0.5 * (0.875 + 0.625) / 2)
    assert (row["accuracy_area_least"], row["accuracy_area_largest"]) == (0.5 * 0.625, 0.5 * 0.875)


def test_areas_are_over_the_shares_that_really_stay() -> None:
    """Of rows of four weights a tenth is one: a quarter."""
    trials = [trial("a0", WHOLE, 1.0, 5.0, 1.0), trial("a0", EMPTY, 0.0, 1.0, 0.5)]
    trials += [trial("a0", "lrp", 0.1, 3.0, 0.5), trial("a0", "lrp", 1.0, 5.0, 1.0)]
    trials[2].share_kept = 0.25
    rows = circuit_rows(trials)
    assert {(row["share"], row["share_kept"]) for row in rows if row["method"] == "lrp"} == {(0.1, 0.25), (1.0, 1.0)}
    (row,) = [row for row in area_rows(rows) if row["asked"] == IN_SAMPLE]
    assert (row["cpr"], row["accuracy_area"]) == (0.75 * 0.75, 0.75 * 0.75)
    before = [{key: value for key, value in one.items() if key != "share_kept"} for one in rows]
    assert area_rows(before)[0]["cpr"] == 0.9 * 0.75


def test_a_model_that_does_not_need_the_neurons_has_no_faithfulness() -> None:
    rows = circuit_rows(
        [trial("task", WHOLE, 1.0, 2.0), trial("task", EMPTY, 0.0, 2.0), trial("task", "lrp", 0.5, 1.0)]
    )
    assert rows[-1]["faithfulness"] is None
    assert area_rows(rows) == []


def test_circuits_are_told_by_layer_and_compared() -> None:
    def kept(*bits: list[int]) -> dict[str, Bits]:
        return {f"block.{layer}.up": Bits.of(torch.tensor(one, dtype=torch.bool)) for layer, one in enumerate(bits)}

    circuits = {
        Whose("a", "a0", "lrp"): kept([1, 1, 0, 0], [1, 0, 0, 0]),
        Whose("a", "a1", "lrp"): kept([1, 0, 0, 0], [1, 0, 1, 0]),
        Whose("b", "b0", "lrp"): kept([0, 0, 0, 0], [0, 1, 1, 1]),
        Whose("a", "a0", "random"): kept([0, 0, 0, 1], [1, 0, 0, 1]),
    }
    parts = part_rows(circuits, lambda name: (int(name.split(".")[1]), "up"))
    assert [tuple(row.values()) for row in parts[:3]] == [
        ("a", "a0", "lrp", 0, "up", 2, 4), ("a", "a0", "lrp", 1, "up", 1, 4), ("a", "a1", "lrp", 0, "up", 1, 4),
    ]  # fmt: skip
    assert list(parts[0]) == ["task", "draw", "method", "layer", "kind", "num_kept", "num"]
    rows = overlap_rows(circuits)  # only the first draw has a random circuit
    names = ("what", "task", "other_task", "of", "first", "second", "num_shared")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("draws", "a", "a", "lrp", "a0", "a1", 2), ("tasks", "a", "b", "lrp", "a0", "b0", 0),
        ("methods", "a", "a", "a0", "lrp", "random", 1), ("tasks", "a", "b", "lrp", "a1", "b0", 1),
    ]  # fmt: skip
    assert (rows[0]["jaccard"], rows[0]["expected"]) == (0.5, 9 / 8)


def test_a_failed_circuit_has_a_row_and_takes_its_curve_with_it() -> None:
    trials = [trial("task", WHOLE, 1.0, 5.0), trial("task", EMPTY, 0.0, 1.0)]
    trials += [trial("task", method, share, 3.0) for method in ("lrp", "random") for share in (0.1, 0.5)]
    failed = CircuitTrial(
        task="t", draw="task", method="lrp", ablation="zero", share=0.2, share_kept=0.2, error="RuntimeError: no memory"
    )
    rows = circuit_rows([*trials, failed])
    told = [row for row in rows if row["error"]]
    assert [(row["asked"], row["accuracy"], row["faithfulness"]) for row in told] == [
        (IN_SAMPLE, None, None), (HELD_OUT, None, None),
    ]  # fmt: skip
    assert {row["method"] for row in area_rows(rows)} == {"random"}


def test_bits_count_what_stays() -> None:
    one, other = (torch.rand(37, generator=torch.Generator().manual_seed(seed)) < 0.4 for seed in (0, 1))
    assert (Bits.of(one).num, Bits.of(one).num_kept) == (37, int(one.sum()))
    assert Bits.of(one).num_shared(Bits.of(other)) == int((one & other).sum())
    assert Bits.of(torch.ones(3, 5, dtype=torch.bool)).num_kept == 15
