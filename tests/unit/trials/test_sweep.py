"""Grids, their cells, and the cells' neurons."""

from dataclasses import replace
from typing import Any

import pytest

from sparc3_lightning.pruning.select import neuron_scores, with_own_factors
from sparc3_lightning.scoring.combine import MethodScores
from sparc3_lightning.scoring.plain import score_baselines
from sparc3_lightning.trials.sweep import Candidates, Cell, Grid, cells_of, plan_cells
from sparc3_lightning.trials.trial import scaled_neurons
from tests.tiny import tiny_llama, tiny_samples


def test_every_combination_once() -> None:
    grid = Grid(["lrp"], [4, 8], signs=["abs", "signed"], general_weights=[1, 8], general_penalties=["raw", "abs"])
    cells = grid.cells()
    assert len(cells) == len(set(cells)) == 2 * 2 * 2 * 2
    assert {cell.key for cell in cells} == {"lrp", "lrp_signed"}
    assert cells[0] == Cell("lrp", "abs", "global", 4)


def test_options_that_a_method_does_not_have_make_no_cells() -> None:
    options: dict[str, Any] = {
        "signs": ["abs", "signed"], "general_weights": [1.0, 4.0], "divide_by_total": [False, True], "num_draws": 3,
    }  # fmt: skip
    assert [cell.draw for cell in Grid(["random"], [4], **options).cells()] == [0, 1, 2]
    assert len(Grid(["magnitude", "auroc"], [4], **options).cells()) == 2
    # Wanda has no sign to choose, but sets to weigh.
    assert len(Grid(["wanda"], [4], **options).cells()) == 4
    assert len(Grid(["random", "wanda"], [4], factors=[0.0, 0.5], num_draws=3).cells()) == 8


def test_a_cell_of_two_grids_is_one() -> None:
    grids = [Grid(["lrp", "wanda"], [4, 8]), Grid(["lrp"], [8, 16])]
    assert [str(cell) for cell in cells_of(grids)] == [
        "lrp, k 4, global", "lrp, k 8, global", "wanda, k 4, global", "wanda, k 8, global", "lrp, k 16, global",
    ]  # fmt: skip


def test_a_cell_in_words() -> None:
    cell = Cell("lrp", "signed", "layer", 30, 8.0, "abs", True, 0.5)
    assert str(cell) == "lrp_signed, k 30, layer, general weight 8, penalty abs, shares, factor 0.5"
    assert str(Cell("random", "abs", "global", 30, draw=2)) == "random, k 30, global, draw 2"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": ["wandaa"]}, r"`methods` must be a list of values of \['lrp', .*got \['wandaa'\]"),
        ({"methods": []}, "`methods` must be a list"),
        ({"num_neurons": [0]}, r"`num_neurons` must be a list of values at least 1, got \[0\]"),
        ({"signs": ["plus"]}, "`signs` must be"),
        ({"scopes": ["row"]}, "`scopes` must be"),
        ({"factors": [1.0]}, "`factors` must be a list of values at least 0 and below 1"),
        ({"own_factors": []}, "`own_factors` must be a list of values true or false"),
        ({"own_factors": [True]}, r"`own_factors` are those of 'auroc', got methods \['lrp'\]"),
        ({"general_weights": [0.5]}, "`general_weight` must be a number of at least 1, got 0.5"),
        ({"general_weights": []}, "`general_weights` must not be empty"),
        ({"general_penalties": ["square"]}, "`general_penalties` must be"),
        ({"num_draws": 0}, "`num_draws` be at least 1"),
    ],
)
def test_what_is_no_option_is_refused(options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Grid(**{"methods": ["lrp"], "num_neurons": [4], **options})


def test_no_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="`grids` must hold at least one grid, got none"):
        cells_of([])


@pytest.fixture(scope="module")
def found() -> dict[str, MethodScores]:
    sets = {"seed0": tiny_samples(seed=0), "seed1": tiny_samples(seed=1), "toxic": tiny_samples(seed=2)}
    return score_baselines(tiny_llama(), sets, ["lrp", "wanda", "random", "magnitude"])


def test_the_same_neurons_are_one_trial(found: dict[str, MethodScores]) -> None:
    """All 48 neurons are the same selection, whatever scored."""
    cells = [*Grid(["lrp", "wanda"], [48]).cells(), Cell("lrp", "abs", "global", 48, factor=0.5)]
    lrp, wanda, half = plan_cells(cells, Candidates(found, ["seed0", "seed1"], "toxic"), lambda done: str(done.key))
    assert lrp.name == wanda.name != half.name
    assert lrp.recipe != wanda.recipe


def test_a_selection_that_fails_is_noted(found: dict[str, MethodScores]) -> None:
    cells = Grid(["lrp"], [3, 49]).cells()
    good, bad = plan_cells(cells, Candidates(found, ["seed0", "seed1"], "toxic"), lambda done: str(done.key))
    assert (good.error, bad.intervention, bad.name) == (None, None, None)
    assert bad.error == (
        "ValueError: `num_neurons` must be between 1 and 48, got 49. Set `PruningCallback.init_args.num_neurons`."
    )


def test_aura_has_a_factor_for_each_neuron() -> None:
    """All 48 neurons: those whose AUROC is above 0.5, each by 1 - 2 (AUROC - 0.5); the others stay as they are."""
    sets = {"general": tiny_samples(seed=0), "toxic": tiny_samples(seed=2)}
    found = score_baselines(tiny_llama(), sets, ["auroc", "lrp"], general=["general"], behaviour="toxic")
    cells = Grid(["lrp", "auroc"], [6, 48], own_factors=[False, True], factors=[0.0, 0.5]).cells()
    # LRP has none of its own, and a factor of one's own is no second strength.
    assert [str(cell) for cell in cells if cell.own_factors] == [
        "auroc, k 6, global, own factors", "auroc, k 48, global, own factors",
    ]  # fmt: skip
    assert len(cells) == 4 + 4 + 2
    assert not any(cell.is_plain for cell in cells if cell.own_factors)
    planned = {str(p.cell): p for p in plan_cells(cells, Candidates(found, ["general"], "toxic"), lambda d: str(d.key))}
    whole, few = (planned[f"auroc, k {k}, global, own factors"] for k in (48, 6))
    assert found["auroc"].ranking is not None
    scores = neuron_scores(found["auroc"].ranking)
    wanted = {
        (layer, index): 1 - 2 * ((0.5 - score) - 0.5)
        for layer, values in scores.items()
        for index, score in enumerate(values.tolist())
        if 0.5 - score > 0.5
    }
    assert whole.recipe is not None
    assert few.recipe is not None
    assert dict(zip(whole.recipe.neurons, whole.recipe.factors, strict=True)) == pytest.approx(wanted)
    assert 6 < len(wanted) < 48
    assert few.recipe.neurons == whole.recipe.neurons[:6]
    assert len({planned[name].name for name in planned if name.startswith("auroc, k 48")}) == 3
    # The trial is told by neurons and factors; removal's key is that of before.
    assert few.intervention is not None
    assert few.intervention.key["factor"] == [
        factor for _, factor in sorted(zip(few.recipe.neurons, few.recipe.factors, strict=True))
    ]
    assert scaled_neurons(few.recipe, 0.0).key == scaled_neurons(replace(few.recipe, factors=[])).key


def test_own_factors_need_a_ranking_by_auroc(found: dict[str, MethodScores]) -> None:
    recipe = Candidates(found, ["seed0"], "toxic").select(Cell("lrp", "abs", "global", 6))
    with pytest.raises(ValueError, match="neurons ranked by 'auroc', got 'lrp'"):
        with_own_factors(recipe)
    other = replace(recipe, options={"method": "auroc"}, scores=[0.1] * 6)
    with pytest.raises(ValueError, match=r"AUROC above 0\.5, got 6 below"):
        with_own_factors(other)


def test_random_draws_differ_and_are_seeded(found: dict[str, MethodScores]) -> None:
    candidates = Candidates(found, ["seed0"], "toxic", seed=3)
    draws = [candidates.select(cell) for cell in Grid(["random"], [6], num_draws=3).cells()]
    assert len({tuple(sorted(recipe.neurons)) for recipe in draws}) == 3
    assert [recipe.options["seed"] for recipe in draws] == [3, 4, 5]
    again = candidates.select(Cell("random", "abs", "global", 6, draw=1))
    assert again.neurons == draws[1].neurons


def test_contrast_options_change_the_selection(found: dict[str, MethodScores]) -> None:
    cells = Grid(["wanda"], [6], general_weights=[1, 4], divide_by_total=[False, True]).cells()
    chosen = {str(cell): Candidates(found, ["seed0", "seed1"], "toxic").select(cell) for cell in cells}
    assert len({tuple(recipe.neurons) for recipe in chosen.values()}) > 1
    shares = chosen["wanda, k 6, global, general weight 4, shares"]
    assert shares.options["general_weight"] == 4.0
    total = found["wanda"].sets["toxic"].total
    assert shares.options["behaviour"]["divided_by"] == pytest.approx(total)
