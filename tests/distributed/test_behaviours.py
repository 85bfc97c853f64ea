"""Several behaviours over several processes: the same recipes, files and comparison as on one."""

import csv
from pathlib import Path
from typing import Any

import pytest

from callbacks import EvaluationCallback, PruningCallback, RelevanceCallback, ScoreWriter
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.data.samples import TextSet
from sparc3_lightning.pruning.weight_recipe import load_recipe
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.statistics.p_values import num_common
from sparc3_lightning.trials.screening import Screen
from tests.distributed.jobs import Case, FixedPrompts, FixedText, SameWeights, make_module, make_trainer, predict
from tests.distributed.test_screen import FixedWords, PriceText
from tests.launch import run_distributed
from tests.runs import read, written
from tests.tiny_files import save_tiny_model

RECIPES = ["all", "insult", "shared", "specific_to_threat", "threat"]
SINGLE = "single weights"
CASES = [("neuron", "replicated", 2), ("neuron", "sharded", 2), ("weight", "sharded", 2), (SINGLE, "sharded", 2)]


def several(model: str, granularity: str, strategy: str, home: str) -> None:
    """A recipe of every kind; of neurons, or of single weights, each is screened, and what it does is measured."""
    number: dict[str, Any] = {"sparsity": 0.05} if granularity == SINGLE else {"num_neurons": 4}
    is_screened, granularity = granularity != "weight", granularity.replace(SINGLE, "weight")
    screen = Screen(num_candidates=30, price_weight=0.1, num_price_tokens=60) if is_screened else None
    pruning = PruningCallback(
        **number, general_penalty="abs", screen=screen, recipes=["each", "shared", "all"], specific_to=["threat"]
    )
    texts: dict[str, TextSet] = {"text": PriceText()}
    behaviours = {"insult": FixedWords(1), "threat": FixedWords(2)}
    data = SparC3DataModule(
        {"ordinary": FixedWords(0)}, behaviours, {"threat": FixedWords(3)}, texts, FixedPrompts(), FixedText(),
        batch_size=2,
    )  # fmt: skip
    callbacks = [RelevanceCallback(), ScoreWriter(), pruning, EvaluationCallback(num_control_draws=1), SameWeights()]
    trainer = make_trainer(strategy, *callbacks, default_root_dir=home)
    case = Case(strategy, granularity, "signed", target="next_token")
    predict(trainer, make_module(model, case, modules="neurons"), data)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("behaviours")
    save_tiny_model(directory / "model")
    for granularity in ("neuron", "weight", SINGLE):
        run_distributed(several, 1, str(directory / "model"), granularity, "replicated", str(directory / granularity))
    return directory


def run_directory(home: Path) -> Path:
    (results,) = (path for path in home.rglob("experiment_results.json") if "recipes" not in path.parts)
    return results.parent


@pytest.mark.parametrize(("granularity", "strategy", "world_size"), CASES)
def test_the_same_recipes_and_files(granularity: str, strategy: str, world_size: int, home: Path) -> None:
    own = home / f"{granularity}-{strategy}-{world_size}"
    run_distributed(several, world_size, str(home / "model"), granularity, strategy, str(own))
    found, wanted = run_directory(own), run_directory(home / granularity)

    def files(directory: Path) -> list[str]:
        """All but trials, and scores of weights: each process writes a file of these."""
        return [name for name in written(directory) if not name.startswith(("trials/", "scores/"))]

    assert files(found) == files(wanted)
    assert sorted(path.name for path in (found / "recipes").iterdir()) == RECIPES
    for name in RECIPES:
        recipe, recipe_wanted = (load_recipe(directory / "recipes" / name) for directory in (found, wanted))
        assert recipe.candidates == recipe_wanted.candidates
        assert num_common(recipe.per_layer(), recipe_wanted.per_layer()) == recipe.num == recipe_wanted.num
        scores, scores_wanted = (ScoreSet.load(path / "scores" / "differential" / name) for path in (found, wanted))
        for module, score in scores_wanted.scores.items():
            assert (scores.scores[module] - score).abs().max() <= 1e-6 * score.abs().max()
    tables = []
    for directory in (found, wanted):
        with (directory / "behaviours_overlap.csv").open() as file:
            tables.append([list(row.values())[:9] for row in csv.DictReader(file)])
    assert tables[0] == tables[1]
    rows, rows_wanted = (read(path / "experiment_results.json")["behaviours"]["recipes"] for path in (found, wanted))
    assert [row["recipe"] for row in rows] == [row["recipe"] for row in rows_wanted]
    for row, row_wanted in zip(rows, rows_wanted, strict=True):
        assert row["pruned"] == pytest.approx(row_wanted["pruned"], rel=1e-6)
