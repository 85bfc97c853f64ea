"""The validation table: what it counts, what it complains of, and figures worked out by hand."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from sparc3_lightning.files import write_json
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.runs.checks import pairwise_overlap, validation_table
from sparc3_lightning.runs.run import Run
from sparc3_lightning.scoring.combine import differential
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.unit.evaluation.fake_run import LAYERS, NEURONS, make_run, make_set, module


def run_with(general: list[torch.Tensor], behaviour: torch.Tensor, k: int = 2, sign: str = "abs") -> Run:
    run = make_run()
    run.general = [f"general_seed{seed}" for seed in range(len(general))]
    run.score_sets.clear()
    for name, rows in zip(run.general, general, strict=True):
        run.score_sets[name] = make_set(name, rows, num_samples=4, num_tokens=40, sign=sign)
    run.score_sets["toxic"] = make_set("toxic", behaviour, num_samples=2, num_tokens=80, sign=sign)
    run.recipe = Recipe([(0, index) for index in range(k)], [-1.0] * k, dict(run.base_model), {"scope": "global"})
    return run


def ones(*higher: tuple[int, int, float]) -> torch.Tensor:
    rows = torch.ones(LAYERS, NEURONS)
    for layer, index, score in higher:
        rows[layer, index] = score
    return rows


def test_a_sound_run_passes() -> None:
    table = validation_table(make_run())
    assert table["passed"] is True
    assert table["problems"] == []
    assert list(table["sets"]) == ["general_seed0", "general_seed1", "general_seed2", "toxic"]
    row = table["sets"]["toxic"]
    assert (row["role"], row["num_modules"], row["num_modules_expected"]) == ("behaviour", LAYERS, LAYERS)
    assert (row["num_scores"], row["num_nan"], row["num_inf"], row["num_negative"]) == (LAYERS * NEURONS, 0, 0, 0)
    assert table["differential"]["num_negative"] > 0


@pytest.mark.parametrize(
    ("value", "key", "said"),
    [(math.nan, "num_nan", "NaN"), (math.inf, "num_inf", "Inf"), (-1.0, "num_negative", "negative")],
)
def test_every_broken_score_is_counted_and_named(value: float, key: str, said: str, tmp_path: Path) -> None:
    run = make_run()
    run.score_sets["general_seed1"].scores[module(2)][[4, 9]] = value
    table = validation_table(run)
    assert table["sets"]["general_seed1"][key] == 2
    assert table["sets"]["general_seed0"][key] == 0
    assert table["passed"] is False
    assert len(table["problems"]) == 1
    assert table["problems"][0].startswith("general_seed1: 2 scores are")
    assert said in table["problems"][0]
    write_json(tmp_path / "table.json", table)  # NaN would be refused: what cannot be told is None


def test_a_missing_and_a_surplus_layer_are_named() -> None:
    run = make_run()
    run.expected_modules = [*run.expected_modules, "lm_head"]
    run.score_sets["toxic"].scores["model.surplus"] = torch.ones(3)
    table = validation_table(run)
    assert table["sets"]["toxic"]["modules_missing"] == ["lm_head"]
    assert "toxic: scores of layers that were not asked for: model.surplus" in table["problems"]
    assert "general_seed0: layers without scores: lm_head" in table["problems"]


def test_signed_scores_may_be_negative() -> None:
    table = validation_table(run_with([ones(), ones()], ones((0, 0, -3.0)), sign="signed"))
    assert table["passed"] is True
    assert table["sets"]["toxic"]["num_negative"] == 1
    assert table["differential_strength"]["value"] is None
    assert "Signed" in table["length_bias"]["meaning"]


def test_length_bias_is_set_beside_the_token_counts() -> None:
    bias = validation_table(run_with([ones(), 3 * ones()], ones() * 0.5))["length_bias"]
    assert bias["general_relevance_per_sample"] == pytest.approx(2 * LAYERS * NEURONS)
    assert bias["relevance_ratio"] == pytest.approx(0.25)
    assert (bias["general_tokens_per_sample"], bias["behaviour_tokens_per_sample"]) == (10, 40)
    assert bias["token_ratio"] == 4


def test_how_much_of_the_selection_a_length_matched_contrast_keeps() -> None:
    """By hand: the mean of both sets selects neurons 0 and 1 of layer 0, the matched one alone 0 and 2."""
    behaviour = ones((0, 0, 9), (0, 1, 6), (0, 2, 5))
    run = run_with([ones(), ones((0, 1, 3))], behaviour)
    assert validation_table(run)["length_bias"]["matched_overlap"] is None
    run.score_sets["general_seed1"].manifest["data"]["source"] = {"length_like": "toxic"}
    bias = validation_table(run)["length_bias"]
    assert (bias["matched_sets"], bias["matched_overlap"]) == (["general_seed1"], 0.5)
    assert run.recipe is not None
    run.recipe.options["screen"] = {"num_candidates": 3}
    assert validation_table(run)["length_bias"]["matched_overlap"] == 1, "1 is among its first three"
    run.score_sets["general_seed0"].manifest["data"]["source"] = {"length_like": "toxic"}
    bias = validation_table(run)["length_bias"]
    assert (len(bias["matched_sets"]), bias["matched_overlap"]) == (2, None), "there is no other contrast"
    run.score_sets["general_seed0"].manifest["data"]["source"] = {}
    run.score_sets["general_seed1"].scores[module(0)][0] = math.nan
    assert validation_table(run)["length_bias"]["matched_overlap"] is None


def test_differential_strength_names_its_scope() -> None:
    strength = validation_table(run_with([ones(), 3 * ones()], ones() * 0.5))["differential_strength"]
    assert strength["value"] == pytest.approx(0.75)
    assert strength["scope"] == "80 scores of 4 modules (modules: neurons, granularity: neuron)"


def test_equal_seeds_do_not_vary() -> None:
    rows = torch.rand(LAYERS, NEURONS, generator=torch.Generator().manual_seed(1))
    seeds = validation_table(run_with([rows, rows, rows], ones()))["seed_variation"]
    assert seeds["coefficient_of_variation"] == pytest.approx(0, abs=1e-7)
    assert seeds["top_overlap"]["mean"] == seeds["selection_overlap"]["mean"] == 1
    assert seeds["num_seeds"] == 3
    assert seeds["overlap_by_chance"] == 2 / 80


def test_overlap_of_each_seeds_own_highest_neurons() -> None:
    first, second = ones((0, 1, 9), (1, 2, 9)), ones((0, 1, 9), (3, 3, 9))
    overlap = validation_table(run_with([first, second], ones()))["seed_variation"]["top_overlap"]
    assert overlap == {"mean": 0.5, "pairs": {"general_seed0 / general_seed1": 0.5}}


def test_overlap_of_what_each_seed_alone_would_select() -> None:
    # The behaviour stands out at three neurons; the second seed finds one of them in general, too.
    behaviour = ones((0, 1, 9), (1, 2, 8), (2, 3, 7))
    seeds = validation_table(run_with([ones(), ones((0, 1, 9))], behaviour))["seed_variation"]
    assert seeds["selection_overlap"]["mean"] == 0.5


def test_coefficient_of_variation_by_hand() -> None:
    seeds = validation_table(run_with([ones(), 3 * ones()], ones()))["seed_variation"]
    assert seeds["coefficient_of_variation"] == pytest.approx(math.sqrt(2) / 2)


def test_one_seed_has_no_variation() -> None:
    assert validation_table(run_with([ones()], ones()))["seed_variation"] is None


@pytest.mark.parametrize("penalty", ["raw", "abs"])
def test_weight_scores_are_selected_by_their_row_sums(penalty: str) -> None:
    run = make_run()
    assert run.recipe is not None
    options = {"general_weight": 2.0, "general_penalty": penalty, "scope": "global"}
    generator = torch.Generator().manual_seed(0)
    for score_set in run.score_sets.values():
        score_set.scores = {name: torch.randn(NEURONS, 3, generator=generator) for name in score_set.scores}
    recipe = Recipe(run.recipe.neurons, run.recipe.scores, dict(run.base_model), options)
    run.recipe = recipe
    found = validation_table(run)["seed_variation"]["selection_overlap"]
    own = {}
    for name in run.general:
        whole = differential([run.score_sets[name]], run.score_sets["toxic"], 2.0, penalty)  # type: ignore[arg-type]
        rows = torch.stack([whole.scores[module(layer)].double().sum(1) for layer in range(LAYERS)]).flatten()
        places = rows.argsort(stable=True)[:2].tolist()
        own[name] = {layer: [one % NEURONS for one in places if one // NEURONS == layer] for layer in range(LAYERS)}
    assert found == pairwise_overlap(own)


def test_millions_of_weights_are_compared_without_a_copy_of_each() -> None:
    first, second = np.arange(0, 2_000_000, 2, np.int32), np.arange(0, 2_000_000, 4, np.int32)
    tracemalloc.start()
    found = pairwise_overlap({"a": {"up": first, "q": np.array([1, 2])}, "b": {"up": second, "v": np.array([1])}})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["mean"] == 500_000 / 1_000_002
    assert peak < 40e6, "sets of pairs take 200 MB and more"


def test_a_set_that_selection_did_not_use_is_listed() -> None:
    run = make_run()
    run.score_sets["extra"] = ScoreSet(run.score_sets["toxic"].scores, run.score_sets["toxic"].manifest)
    assert validation_table(run)["sets"]["extra"]["role"] == "not used"
