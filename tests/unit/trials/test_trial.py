"""Cells run once, kept, found again, and reported where they fail."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from sparc3_lightning.data.samples import Prompt
from sparc3_lightning.evaluation import Decoding, Evaluation, Evaluator
from sparc3_lightning.evaluation.records import PerplexityResult
from sparc3_lightning.metrics import JointScorer, LexicalScorer, Scorer
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.scoring.baselines import MethodScores, score_baselines
from sparc3_lightning.trials.selection import select_cell
from sparc3_lightning.trials.store import CellStore, evaluation_setting, fingerprint
from sparc3_lightning.trials.sweep import Cell, Grid
from sparc3_lightning.trials.trial import PlannedCell, plan_cells, run_cells
from tests.tiny import tiny_llama, tiny_samples

SETTING = {"model": "tiny"}


def silent(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
    return items


@pytest.fixture(scope="module")
def found() -> dict[str, MethodScores]:
    sets = {"seed0": tiny_samples(seed=0), "seed1": tiny_samples(seed=1), "toxic": tiny_samples(seed=2)}
    return score_baselines(tiny_llama(), sets, ["lrp", "wanda", "random", "magnitude"])


def planned(found: dict[str, MethodScores], cells: list[Cell], **setting: Any) -> list[PlannedCell]:
    return plan_cells(cells, found, ["seed0", "seed1"], "toxic", {**SETTING, **setting})


def evaluated(num_neurons: int) -> Evaluation:
    loss = 1.0 + num_neurons
    result = PerplexityResult("disjoint", math.exp(loss), loss, 3, 2, 1, 3, 3, False, [2 * loss])
    return Evaluation({"disjoint": result}, None)


def judged(evaluation: Evaluation) -> dict[str, Any]:
    return {"loss": evaluation.perplexity["disjoint"].mean_loss}


class Evaluations:
    """Counts what it is asked, and fails where told to."""

    def __init__(self, failing: int | None = None) -> None:
        self.asked: list[tuple[int, float]] = []
        self.failing = failing

    def __call__(self, recipe: Recipe, factor: float) -> Evaluation:
        self.asked.append((len(recipe.neurons), factor))
        if len(recipe.neurons) == self.failing:
            raise RuntimeError("out of memory")
        return evaluated(len(recipe.neurons))


def test_cells_are_read_again_and_not_run_again(found: dict[str, MethodScores], tmp_path: Path) -> None:
    cells, store = Grid(["lrp"], [3, 5]).cells(), CellStore(tmp_path)
    first, second = Evaluations(), Evaluations()
    once = planned(found, cells)
    run_cells(once, first, judged, store, silent)
    again = planned(found, [*cells, Cell("lrp", "abs", "global", 7)])
    run_cells(again, second, judged, store, silent)
    assert (first.asked, second.asked) == ([(3, 0.0), (5, 0.0)], [(7, 0.0)])
    assert [cell.is_reused for cell in again] == [True, True, False]
    assert [cell.figures for cell in once] == [{"loss": 4.0}, {"loss": 6.0}]
    assert [cell.figures for cell in again] == [{"loss": 4.0}, {"loss": 6.0}, {"loss": 8.0}]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_crashed_cell_is_reported_tried_again_and_costs_no_other(
    found: dict[str, MethodScores], tmp_path: Path
) -> None:
    cells, store = Grid(["lrp"], [3, 5, 7]).cells(), CellStore(tmp_path)
    broken = planned(found, cells)
    run_cells(broken, Evaluations(failing=5), judged, store, silent)
    assert [cell.error for cell in broken] == [None, "RuntimeError: out of memory", None]
    assert [cell.figures is None for cell in broken] == [False, True, False]
    mended, evaluations = planned(found, cells), Evaluations()
    run_cells(mended, evaluations, judged, store, silent)
    assert evaluations.asked == [(5, 0.0)]
    assert not any(cell.error for cell in mended)


def test_an_interrupt_ends_the_sweep_and_keeps_what_is_done(found: dict[str, MethodScores], tmp_path: Path) -> None:
    class Interrupted(Evaluations):
        def __call__(self, recipe: Recipe, factor: float) -> Evaluation:
            if len(recipe.neurons) == 5:
                raise KeyboardInterrupt
            return super().__call__(recipe, factor)

    with pytest.raises(KeyboardInterrupt):
        run_cells(planned(found, Grid(["lrp"], [3, 5]).cells()), Interrupted(), judged, CellStore(tmp_path), silent)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_same_neurons_are_evaluated_once(found: dict[str, MethodScores], tmp_path: Path) -> None:
    """All 48 neurons are the same selection, whatever scored."""
    cells = [*Grid(["lrp", "wanda"], [48]).cells(), Cell("lrp", "abs", "global", 48, factor=0.5)]
    evaluations, run = Evaluations(), planned(found, cells)
    run_cells(run, evaluations, judged, CellStore(tmp_path), silent)
    assert evaluations.asked == [(48, 0.0), (48, 0.5)]
    assert [cell.is_reused for cell in run] == [False, True, False]


def test_a_damaged_cell_is_run_again(found: dict[str, MethodScores], tmp_path: Path) -> None:
    cells, store = Grid(["lrp"], [3]).cells(), CellStore(tmp_path)
    run_cells(planned(found, cells), Evaluations(), judged, store, silent)
    (file,) = tmp_path.iterdir()
    for content in (file.read_text()[:-20], '{"fingerprint": "other"}', "[]"):
        file.write_text(content)
        evaluations = Evaluations()
        run_cells(planned(found, cells), evaluations, judged, store, silent)
        assert evaluations.asked == [(3, 0.0)]


def test_a_selection_that_fails_is_noted(found: dict[str, MethodScores], tmp_path: Path) -> None:
    run = planned(found, Grid(["lrp"], [3, 49]).cells())
    run_cells(run, Evaluations(), judged, CellStore(tmp_path), silent)
    assert run[0].error is None
    assert run[1].error == (
        "ValueError: `num_neurons` must be between 1 and 48, got 49. Set `PruningCallback.init_args.num_neurons`."
    )


def test_random_draws_differ_and_are_seeded(found: dict[str, MethodScores]) -> None:
    draws = [
        select_cell(cell, found, ["seed0"], "toxic", seed=3) for cell in Grid(["random"], [6], num_draws=3).cells()
    ]
    assert len({tuple(sorted(recipe.neurons)) for recipe in draws}) == 3
    assert [recipe.options["seed"] for recipe in draws] == [3, 4, 5]
    again = select_cell(Cell("random", "abs", "global", 6, draw=1), found, ["seed0"], "toxic", seed=3)
    assert again.neurons == draws[1].neurons


def test_contrast_options_change_the_selection(found: dict[str, MethodScores]) -> None:
    cells = Grid(["wanda"], [6], general_weights=[1, 4], divide_by_total=[False, True]).cells()
    chosen = {str(cell): select_cell(cell, found, ["seed0", "seed1"], "toxic") for cell in cells}
    assert len({tuple(recipe.neurons) for recipe in chosen.values()}) > 1
    shares = chosen["wanda, k 6, global, general weight 4, shares"]
    assert shares.options["general_weight"] == 4.0
    total = found["wanda"].sets["toxic"].total
    assert shares.options["behaviour"]["divided_by"] == pytest.approx(total)


PROMPTS = [Prompt("0", "w1 w2"), Prompt("1", "w3")]


def setting(
    scorer: list[str] | None = None, decoding: Decoding | None = None, prompts: list[Prompt] = PROMPTS,
    rows: tuple[str, ...] = ("w4",), model: str = "a", **options: Any,
) -> dict[str, Any]:  # fmt: skip
    evaluator = Evaluator(
        LexicalScorer(scorer or ["w1"]), decoding or Decoding(), toxicity_protocol="custom", **options
    )
    return evaluation_setting(evaluator, prompts, list(rows), {"weight_hash": model})


@pytest.mark.parametrize(
    "changed",
    [
        {"scorer": ["w2"]},
        {"scorer": ["w1", "unheard"]},
        {"decoding": Decoding(seed=1)},
        {"prompts": [Prompt("0", "w1 w2"), Prompt("2", "w3")]},
        {"rows": ("w5",)},
        {"model": "b"},
        {"window": 16},
        {"stride": 4},
        {"threshold": 0.6},
        {"perplexity_protocols": ["sliding"]},
    ],
)
def test_fingerprint_knows_all_that_an_evaluation_depends_on(changed: dict[str, Any]) -> None:
    neurons = [(0, 1), (1, 2)]
    assert fingerprint(setting(), neurons, 0.0) == fingerprint(setting(), neurons[::-1], 0.0)
    assert fingerprint(setting(**changed), neurons, 0.0) != fingerprint(setting(), neurons, 0.0)
    assert fingerprint(setting(), [(0, 1)], 0.0) != fingerprint(setting(), neurons, 0.0)
    assert fingerprint(setting(), neurons, 0.5) != fingerprint(setting(), neurons, 0.0)


def test_fingerprint_knows_the_words_of_a_joined_scorer() -> None:
    """No prompt holds them; completions may."""

    def joint(word: str) -> dict[str, Any]:
        scorers: list[Scorer] = [LexicalScorer(["w1"]), LexicalScorer([word])]
        scorers[1].name = "second"
        evaluator = Evaluator(JointScorer(scorers), toxicity_protocol="custom")
        return evaluation_setting(evaluator, PROMPTS, ["w4"], {"weight_hash": "a"})

    assert joint("unheard") == joint("unheard")
    assert joint("unheard") != joint("unseen")


@pytest.mark.parametrize("option", ["batch_size", "max_tokens", "num_draws", "statistics_seed"])
def test_what_evaluations_do_not_depend_on_is_no_part_of_it(option: str) -> None:
    assert setting(**{option: 2}) == setting(**{option: 16})


def test_whole_evaluations_are_kept(found: dict[str, MethodScores], tmp_path: Path) -> None:
    """Statistics can be made of them again, without a model."""
    store, (run,) = CellStore(tmp_path), planned(found, Grid(["lrp"], [3]).cells())
    run_cells([run], Evaluations(), judged, store, silent)
    assert run.fingerprint is not None
    assert store.load(run.fingerprint) == evaluated(3)


def test_figures_that_cannot_be_made_fail_the_cell_alone(found: dict[str, MethodScores], tmp_path: Path) -> None:
    def fails(evaluation: Evaluation) -> dict[str, Any]:
        if evaluation == evaluated(3):
            raise ValueError("another setting")
        return judged(evaluation)

    run = planned(found, Grid(["lrp"], [3, 5]).cells())
    run_cells(run, Evaluations(), fails, CellStore(tmp_path), silent)
    assert [(cell.figures, cell.error) for cell in run] == [
        (None, "ValueError: another setting"),
        ({"loss": 6.0}, None),
    ]
