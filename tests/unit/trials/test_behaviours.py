"""Several behaviours side by side: exact overlaps, and each recipe's changes with corrected p-values."""

from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from sparc3_lightning.pruning.aims import Aim
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.select_weights import select_weights
from sparc3_lightning.report.behaviour_tables import overlap_table, recipe_table
from sparc3_lightning.report.overlap_figures import behaviour_pictures
from sparc3_lightning.scoring.combine import differential
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.trials.behaviours import compare_behaviours, recipe_rows, write_rows
from sparc3_lightning.wording import MISSING
from tests.unit.evaluation.fake_run import make_set

# Eight neurons in two layers; the first two of a and of b are the same, c's are others.
SCORES = {
    "a": [[-4.0, -3.0, 0.0, 1.0], [2.0, 3.0, 4.0, 5.0]],
    "b": [[-3.0, -4.0, 0.0, 1.0], [2.0, 3.0, 4.0, 5.0]],
    "c": [[5.0, 4.0, 3.0, 2.0], [1.0, 0.0, -3.0, -4.0]],
}


@pytest.fixture(scope="module")
def differentials() -> dict[str, ScoreSet]:
    ordinary = make_set("ordinary", torch.zeros(2, 4), 4, 40, sign="signed")
    return {
        name: differential(ordinary, make_set(name, -torch.tensor(scores), 4, 40, sign="signed"))
        for name, scores in SCORES.items()
    }


def test_first_neurons_are_compared_pair_by_pair(differentials: dict[str, ScoreSet]) -> None:
    rows = compare_behaviours(differentials, [2, 3], shared_texts={("a", "c"): 7}, shared_general={("b", "c"): 5})
    assert [(row["num_neurons"], row["first"], row["second"]) for row in rows] == [
        (k, *pair) for k in (2, 3) for pair in combinations("abc", 2)
    ]
    same, other, _ = rows[:3]
    assert (same["num_shared"], same["jaccard"], same["expected"], same["enrichment"]) == (2, 1.0, 0.5, 4.0)
    assert same["p_value"] == pytest.approx(1 / comb(8, 2))
    assert same["p_holm"] == pytest.approx(3 / comb(8, 2)), "of three pairs"
    assert same["correlation"] == pytest.approx(1 - 6 * 2 / (8 * 63)), "two neighbours change places"
    assert (other["num_shared"], other["jaccard"], other["enrichment"], other["p_value"]) == (0, 0.0, 0.0, 1.0)
    assert other["correlation"] == pytest.approx(-1.0)
    assert [row["num_shared_texts"] for row in rows] == [0, 7, 0] * 2
    assert [row["num_shared_general"] for row in rows] == [0, 0, 5] * 2
    of_before = [{key: value for key, value in row.items() if key != "num_shared_general"} for row in rows]
    assert [row[-2:] for row in overlap_table(rows).rows[:3]] == [["0", "0"], ["7", "0"], ["0", "5"]]
    assert [row[-1] for row in overlap_table(of_before).rows] == [MISSING] * 6


def test_the_scope_says_which_are_first(differentials: dict[str, ScoreSet]) -> None:
    """One of each layer: a and b share the second layer's, not the first's; alone in its layer c has others."""
    rows = compare_behaviours(differentials, [2], scope="layer")
    assert [row["num_shared"] for row in rows] == [1, 0, 0]


def test_recipes_are_compared_where_a_screen_chose_them(differentials: dict[str, ScoreSet]) -> None:
    recipes = {"a": Recipe([(0, 0), (0, 1)]), "c": Recipe([(0, 1), (1, 3), (1, 2)])}
    assert [row["what"] for row in compare_behaviours(differentials, [2])] == ["differential"] * 3
    row = compare_behaviours(differentials, [2], recipes=recipes)[-1]
    assert (row["what"], row["num_neurons"], row["first"], row["second"]) == ("recipe", None, "a", "c")
    assert (row["num_shared"], row["jaccard"], row["expected"]) == (1, 1 / 4, 2 * 3 / 8)
    assert row["correlation"] == pytest.approx(-1.0)


def weights_of(*scores: list[float]) -> ScoreSet:
    """Differential scores of single weights: of one neuron's row of two layers' up_proj, and of two rows of lm_head."""
    made = make_set("made", torch.tensor([scores[0], scores[1]])[:, None], 4, 40, sign="signed")
    return ScoreSet({**made.scores, "lm_head": torch.tensor([scores[2], scores[3]])}, made.manifest)


@pytest.fixture(scope="module")
def of_weights() -> dict[str, ScoreSet]:
    """Twelve weights: a and b share one of their three lowest, a and c two; no row's sum decides."""
    return {
        "a": weights_of([-5.0, 1.0, 1.0], [9.0, -4.0, 1.0], [0.0, -3.0, 8.0], [1.0, 1.0, 1.0]),
        "b": weights_of([-5.0, 1.0, 1.0], [9.0, 4.0, -4.5], [0.0, 3.0, 8.0], [1.0, 1.0, -4.0]),
        "c": weights_of([-5.0, 1.0, 1.0], [9.0, -4.0, 1.0], [0.0, 3.0, 8.0], [1.0, 1.0, -4.0]),
    }


def test_first_weights_are_compared_pair_by_pair(of_weights: dict[str, ScoreSet]) -> None:
    rows = compare_behaviours(of_weights, [], sparsity=3 / 12, shared_texts={("b", "c"): 2})
    assert [(row["what"], row["num_weights"], row["first"], row["second"]) for row in rows] == [
        ("differential", 3, *pair) for pair in combinations("abc", 2)
    ]
    assert [row["num_shared"] for row in rows] == [1, 2, 2]
    assert [row["jaccard"] for row in rows] == [1 / 5, 2 / 4, 2 / 4]
    assert [row["expected"] for row in rows] == [3 * 3 / 12] * 3
    at_least_two = (comb(3, 2) * 9 + 1) / comb(12, 3)
    assert rows[1]["p_value"] == pytest.approx(at_least_two)
    assert rows[1]["enrichment"] == pytest.approx(2 / 0.75)
    assert rows[1]["p_holm"] == pytest.approx(3 * at_least_two)
    # Sums of rows, in any one order: -3, 6, 5, 3 against -3, 8.5, 11, -2 and -3, 6, 11, -2.
    assert rows[0]["correlation"] == pytest.approx(1 - 6 * (0 + 1 + 1 + 0) / (4 * 15))
    assert [row["num_shared_texts"] for row in rows] == [0, 0, 2]
    assert not {"num_neurons"} & rows[0].keys()


def test_recipes_of_weights_are_compared_and_every_layer_gives_its_share(of_weights: dict[str, ScoreSet]) -> None:
    recipes = {name: select_weights(of_weights[name], 0.25) for name in "ab"}
    row = compare_behaviours(of_weights, [], "layer", recipes, sparsity=1 / 3)[-1]
    assert (row["what"], row["num_weights"], row["num_shared"], row["expected"]) == ("recipe", None, 1, 0.75)
    by_layer = compare_behaviours(of_weights, [], "layer", sparsity=1 / 3)
    # One of each block and two of lm_head: a's [0, 1], b's [0, 5], c's [0, 5] there.
    assert [(row["num_weights"], row["num_shared"]) for row in by_layer] == [(4, 2), (4, 3), (4, 3)]


def test_tables_and_figures_speak_of_weights(of_weights: dict[str, ScoreSet]) -> None:
    rows = compare_behaviours(of_weights, [], recipes={}, sparsity=0.25)
    table = overlap_table(rows)
    assert (table.title, table.head[1]) == ("Do the behaviours share weights?", "weights")
    assert table.rows[1][:6] == ["a, c", "first 3", "2", "0.75", "2.67 x", "0.50"]
    results = {name: {**found(0.01, against=0.01), "selection": {"num_weights": 40_253}} for name in "ab"}
    side_by_side = recipe_table(recipe_rows(results, AIMS))
    assert side_by_side.head[:2] == ["recipe", "weights"]
    assert [row[:2] for row in side_by_side.rows] == [["a", "40,253"], ["b", "40,253"]]
    (picture,) = behaviour_pictures(rows)
    assert picture.name == "behaviours_overlap_3"
    assert "Shared weights at 3" in picture.figure.axes[0].get_title(loc="left") + picture.figure.axes[0].get_title()
    for told in (table.note, side_by_side.note, picture.caption):
        assert "weights" in told
        assert "neurons" not in told


def found(
    p_value: float, relative: float = -0.5, against: float | None = None, control: float = 0.41
) -> dict[str, Any]:
    """What the results file has of one recipe."""
    change = {
        "before": 0.4, "after": 0.4 * (1 + relative), "relative": relative, "p_value": p_value,
        "interval": {"low": -0.3, "high": -0.1},
    }  # fmt: skip
    column = {
        "role": "behaviour", "better": "lower", "change": change,
        "control": None if against is None else {"mean": control},
        "change_against_control": None if against is None else {"p_value": against},
    }  # fmt: skip
    hidden = {**column, "role": "detail"}
    return {"selection": {"num_neurons": 3}, "columns": {"insult/mean": column, "insult/spread": hidden}}


AIMS = {name: Aim(name, "each", (name,), ("ordinary",)) for name in "abc"} | {
    "shared": Aim("shared", "shared", ("a", "b"), ("ordinary",))
}


def test_a_measure_s_p_values_are_corrected_over_the_recipes() -> None:
    rows = recipe_rows({"a": found(0.01), "b": found(0.04), "c": found(0.5)}, AIMS)
    assert [(row["recipe"], row["column"]) for row in rows] == [(name, "insult/mean") for name in "abc"]
    assert [row["p_holm"] for row in rows] == pytest.approx([0.03, 0.08, 0.5])
    assert (rows[0]["baseline"], rows[0]["pruned"], rows[0]["low"], rows[0]["high"]) == (0.4, 0.2, -0.3, -0.1)
    assert (rows[0]["control"], rows[0]["p_against_control"]) == (None, None)
    (shared,) = recipe_rows({"shared": found(0.01, against=0.2)}, AIMS)
    assert (shared["kind"], shared["behaviours"], shared["num_neurons"]) == ("shared", "a b", 3)
    assert (shared["control"], shared["p_against_control"]) == (0.41, 0.2)


@pytest.mark.parametrize(
    ("p_value", "against", "cell"),
    [(0.01, None, "-50.0%*"), (0.04, None, "-50.0%"), (0.01, 0.01, "-50.0%*"), (0.01, 0.2, "-50.0%")],
)
def test_the_table_marks_what_holds_against_baseline_and_control(
    p_value: float, against: float | None, cell: str
) -> None:
    results = {"a": found(p_value, against=against), "b": found(0.6, relative=0.25, against=against)}
    table = recipe_table(recipe_rows(results, AIMS))
    assert table.head == ["recipe", "neurons", "insult, mean"]
    assert table.rows == [["a", "3", cell], ["b", "3", "+25.0%"]]
    assert ("random neurons" in table.note) == (against is not None)


def test_what_random_neurons_do_better_has_no_star() -> None:
    table = recipe_table(recipe_rows({"a": found(0.01, against=0.01, control=0.1)}, AIMS))
    assert table.rows == [["a", "3", "-50.0%"]]


def test_the_table_shows_other_attributes_and_of_the_deciding_one_what_decides() -> None:
    results = found(0.01)
    columns = results["columns"]
    for name, role in (("insult/probability", "logged"), ("threat/mean", "logged"), ("kindness", "beside")):
        columns[name] = {**columns["insult/mean"], "role": role}
    rows = recipe_rows({"a": results}, AIMS)
    assert {row["column"] for row in rows} == {"insult/mean", "insult/probability", "threat/mean", "kindness"}
    assert recipe_table(rows).head == ["recipe", "neurons", "insult, mean", "threat, mean"]


def test_recipes_may_be_judged_by_different_attributes() -> None:
    """Each by its own: what decides of one is shown of all, though there it is a detail."""

    def judged(attribute: str) -> dict[str, Any]:
        columns = {}
        for one in ("insult", "threat"):
            role, beside = ("behaviour", "logged") if one == attribute else ("detail", "detail")
            columns |= {f"{one}/expected_maximum": (role), f"{one}/probability": beside}
        made = found(0.01)
        return {**made, "columns": {name: {**made["columns"]["insult/mean"], "role": role}
                                    for name, role in columns.items()}}  # fmt: skip

    rows = recipe_rows({"a": judged("insult"), "b": judged("threat")}, AIMS)
    table = recipe_table(rows)
    assert table.head == ["recipe", "neurons", "judged by", "insult, expected maximum", "threat, expected maximum"]
    assert table.rows == [["a", "3", "insult", "-50.0%*", "-50.0%*"], ["b", "3", "threat", "-50.0%*", "-50.0%*"]]
    of_threat = [row for row in rows if row["column"] == "threat/expected_maximum"]
    assert [(row["recipe"], row["role"], row["p_holm"]) for row in of_threat] == [
        ("a", "detail", 0.02), ("b", "behaviour", 0.02)
    ]  # fmt: skip


def test_tables_files_and_figures_of_overlaps(differentials: dict[str, ScoreSet], tmp_path: Path) -> None:
    rows = compare_behaviours(differentials, [2], recipes={"a": Recipe([(0, 0)]), "b": Recipe([(0, 0)])})
    table = overlap_table(rows)
    assert table.rows[0] == ["a, b", "first 2", "2", "0.5", "4 x", "1.00", "0.107", "+0.98", "0", "0"]
    assert [row[1] for row in table.rows] == ["first 2"] * 3 + ["recipes"]
    stored = pd.read_csv(write_rows(rows, tmp_path / "overlap.csv"))
    assert stored["num_shared"].tolist() == [2, 0, 0, 1]
    assert stored["p_holm"].tolist() == pytest.approx([row["p_holm"] for row in rows])
    (picture,) = behaviour_pictures(rows)
    assert picture.name == "behaviours_overlap_2"
    shown = [text.get_text() for text in picture.figure.axes[0].texts]
    assert shown.count("1.00") == 2, "a and b, on both sides; with a p of 0.107 without a star"
