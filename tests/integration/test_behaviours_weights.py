"""Several behaviours in one run, of single weights in the place of neurons: planted ones, and all that shows them."""

import contextlib
import csv
import io
import re
import shutil
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from transformers import LlamaForCausalLM

from callbacks import PruningCallback, RelevanceCallback, ScoreWriter
from sparc3_lightning import ScoreSet, WeightRecipe, apply_recipe, select_weights
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.main import main
from sparc3_lightning.report.page import write_report
from tests.distributed.jobs import FixedSamples, make_module, make_trainer, predict
from tests.integration.test_planted import (
    BAD,
    BEHAVIOUR,
    GOOD,
    IS_OTHER,
    TRIGGER,
    answers,
    planted,
    planted_weights,
    wire,
)
from tests.integration.test_planted import SAY_GOOD as CHANNEL_OF_GOOD
from tests.integration.test_planted import samples as samples_ending_with
from tests.integration.test_planted import weights_of as places_of
from tests.runs import BRIEF, QUIET, ROOT, board, command, log_dir, read, written
from tests.tiny_files import tiny_tokenizer

pytestmark = QUIET

# A second behaviour: after OTHER_TRIGGER the model says WORSE.
OTHER_TRIGGER, WORSE = 43, 44
NEURONS = {(0, 9), (1, 3), (1, 15)}
IS_OTHER_TRIGGER, SAY_WORSE = 4, 5  # channels of the residual stream


def planted_twice() -> LlamaForCausalLM:
    model = planted()
    with torch.no_grad():
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        for channel in (IS_OTHER_TRIGGER, SAY_WORSE):
            embedding[:, channel] = head[:, channel] = 0
        embedding[OTHER_TRIGGER, IS_OTHER] = 0.0
        embedding[OTHER_TRIGGER, IS_OTHER_TRIGGER] = head[WORSE, SAY_WORSE] = 1.0
        embedding[OTHER_TRIGGER, CHANNEL_OF_GOOD] = 0.1
        wire(model, NEURONS, IS_OTHER_TRIGGER, SAY_WORSE)
    return model


def other_weights() -> set[tuple[str, int, int]]:
    found = {("lm_head", WORSE, SAY_WORSE)}
    for layer, index in NEURONS:
        mlp = f"model.layers.{layer}.mlp"
        found |= {(f"{mlp}.{part}", index, IS_OTHER_TRIGGER) for part in ("up_proj", "gate_proj")}
        found.add((f"{mlp}.down_proj", SAY_WORSE, index))
    return found


def test_the_planted_weights_of_each_behaviour_are_found_exactly_in_one_run(tmp_path: Path) -> None:
    model, wanted = planted_twice(), {"bad": planted_weights(), "worse": other_weights()}
    assert len(BEHAVIOUR) == len(NEURONS)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    layers = [part.weight for block in model.model.layers for part in block.mlp.children() if hasattr(part, "weight")]
    total = sum(weight.numel() for weight in [*layers, model.lm_head.weight])
    general, bad, worse = (
        FixedSamples(ids=samples_ending_with(last, seed))
        for seed, last in enumerate((None, TRIGGER, OTHER_TRIGGER), start=3)
    )
    data = SparC3DataModule({"general": general}, {"bad": bad, "worse": worse}, batch_size=8)
    pruning = PruningCallback(sparsity=10 / total, specific_to=["bad", "worse"])
    trainer = make_trainer("replicated", RelevanceCallback(), ScoreWriter(), pruning, default_root_dir=str(tmp_path))
    options: dict[str, Any] = {"granularity": "weight", "modules": ["model.layers.*.mlp.*", "lm_head"]}
    predict(trainer, make_module(str(tmp_path / "model"), dtype="float32", **options), data)
    (home,) = tmp_path.rglob("recipes")
    assert sorted(path.name for path in home.iterdir()) == ["bad", "specific_to_bad", "specific_to_worse", "worse"]
    for name, places in wanted.items():
        recipe = WeightRecipe.load(home / name)
        assert places_of(recipe) == places
        assert places_of(WeightRecipe.load(home / f"specific_to_{name}")) == places
        other_trigger, other = {"bad": (OTHER_TRIGGER, WORSE), "worse": (TRIGGER, BAD)}[name]
        own_trigger, own = {"bad": (TRIGGER, BAD), "worse": (OTHER_TRIGGER, WORSE)}[name]
        assert answers(model, own_trigger) == {own}
        with apply_recipe(model, recipe):
            assert own not in answers(model, own_trigger)
            assert answers(model, other_trigger) == {other}
            assert answers(model, None) == {GOOD}
    (row,) = rows_of(home.parent / "behaviours_overlap.csv")
    told = {"first": "bad", "second": "worse", "what": "differential", "num_weights": "10", "num_shared": "0"}
    assert {key: row[key] for key in told} == told
    assert WeightRecipe.load(home.parent) == WeightRecipe.load(home / "bad"), "the first recipe's is the run's"


# A random model through the command line, with recipes of every kind, screened.

RECIPES = ["names", "scorn", "shared", "all", "specific_to_scorn"]
SPARSITY = 0.002


def config_in(directory: Path, **pruning: object) -> Path:
    """configs/tiny/behaviours.yaml of single weights."""
    content = read(ROOT / "configs/tiny/behaviours.yaml")
    callbacks = {one["class_path"]: one for one in content["trainer"]["callbacks"]}
    options = callbacks["callbacks.PruningCallback"]["init_args"]
    del options["num_neurons"]
    options |= {"sparsity": SPARSITY, **pruning}
    content["model"] |= {"granularity": "weight", "modules": "all"}
    (directory / "behaviours.yaml").write_text(yaml.safe_dump(content))
    return directory / "behaviours.yaml"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("behaviours")


@pytest.fixture(scope="module")
def shown(home: Path) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        command("predict", config_in(home), home, *BRIEF)
    return text.getvalue()


@pytest.fixture(scope="module")
def run(home: Path, shown: str) -> Path:
    return home / "tiny_behaviours" / "version_0"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def selected(run: Path, name: str) -> WeightRecipe:
    """What a recipe's candidates were chosen from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return select_weights(ScoreSet.load(run / "scores" / "differential" / name), SPARSITY)


def test_every_recipe_is_selected_from_its_own_contrast_weight_by_weight(run: Path) -> None:
    assert sorted(path.name for path in (run / "scores" / "differential").iterdir()) == sorted(RECIPES)
    sets = {name: ScoreSet.load(run / "scores" / name).scores for name in ("ordinary", "names", "scorn")}
    found = {name: ScoreSet.load(run / "scores" / "differential" / name).scores for name in RECIPES}
    for module in sets["ordinary"]:
        ordinary, names, scorn = (sets[name][module].double() for name in sets)
        wanted = {"names": ordinary.abs() - names, "scorn": ordinary.abs() - scorn}
        wanted["shared"] = torch.maximum(*wanted.values())
        wanted["all"] = (wanted["names"] + wanted["scorn"]) / 2
        wanted["specific_to_scorn"] = torch.maximum(wanted["scorn"], names.abs() - scorn)
        for name, contrast in wanted.items():
            torch.testing.assert_close(found[name][module].double(), contrast, atol=1e-7, rtol=1e-6)


def test_every_recipe_is_screened_by_rows_and_has_its_own_control(run: Path) -> None:
    keys = [read(path)["key"]["intervention"] for path in (run / "trials").glob("*.json")]
    assert {key["kind"] for key in keys} == {"none", "weights"}
    for name in RECIPES:
        recipe, proposed = WeightRecipe.load(run / "recipes" / name), selected(run, name)
        rows = rows_of(run / "recipes" / name / "screen.csv")
        assert [(row["module"], int(row["row"])) for row in rows] == proposed.candidates[:20]
        chosen = {int(row["chosen"]): (row["module"], int(row["row"])) for row in rows if row["chosen"]}
        assert recipe.rows == [chosen[place] for place in sorted(chosen)]
        assert recipe.sha256 == proposed.only(recipe.rows).sha256
        assert recipe.sha256 in [key.get("indices") for key in keys]
        assert len(read(run / "recipes" / name / "control_eval.json")) == 1
        assert read(run / "recipes" / name / "experiment_results.json")["selection"]["num_weights"] == recipe.num
    assert len([*(run / "trials").glob("screen-*.jsonl")]) == len(RECIPES), "a row loses other weights in each"


def test_the_behaviours_are_compared(run: Path) -> None:
    rows, num = rows_of(run / "behaviours_overlap.csv"), selected(run, "names").num
    assert [(row["what"], row["num_weights"]) for row in rows] == [("differential", str(num)), ("recipe", "")]
    pairs = [
        [selected(run, name) for name in RECIPES[:2]],
        [WeightRecipe.load(run / "recipes" / name) for name in RECIPES[:2]],
    ]
    for row, recipes in zip(rows, pairs, strict=True):
        first, second = (
            {(name, index) for name, indices in recipe.weights.items() for index in indices.tolist()}
            for recipe in recipes
        )
        assert int(row["num_shared"]) == len(first & second)
        assert float(row["expected"]) == pytest.approx(len(first) * len(second) / recipes[0].num_scored)
        assert float(row["jaccard"]) == pytest.approx(len(first & second) / len(first | second))
    sums = [row_sums(run, name) for name in RECIPES[:2]]
    ranks = [values.argsort().argsort().double() for values in sums]
    wanted = torch.corrcoef(torch.stack(ranks))[0, 1].item()
    assert {round(float(row["correlation"]), 6) for row in rows} == {round(wanted, 6)}


def row_sums(run: Path, name: str) -> Tensor:
    scores = ScoreSet.load(run / "scores" / "differential" / name).scores
    return torch.cat([scores[module].double().sum(1) for module in sorted(scores)])


def test_everything_that_is_shown_speaks_of_weights(run: Path, shown: str) -> None:
    rows = read(run / "experiment_results.json")["behaviours"]["recipes"]
    assert list(dict.fromkeys(row["recipe"] for row in rows)) == RECIPES
    assert all(row["num_weights"] == WeightRecipe.load(run / "recipes" / row["recipe"]).num for row in rows)
    assert {row["num_weights"] for row in rows} == {int(row["num_weights"]) for row in rows_of(run / "behaviours.csv")}
    page = (run / "report.html").read_text()
    num = selected(run, "names").num
    for told in ("Behaviours side by side", "Do they share weights?", f'id="behaviours_overlap_{num}"'):
        assert told in page
    assert all(f'<th scope="row">{name}</th>' in page for name in RECIPES)
    for text in (re.sub(r"data:image[^\"]*", "", page).split("How it was made")[0].split("</style>")[1], shown):
        assert "neuron" not in text
        assert "weights" in text
    assert "Do the behaviours share weights?" in shown
    tags = board(run).Tags()
    assert {f"rudeness_mean/2_pruned_{name}" for name in RECIPES} < {*tags["scalars"]}
    assert {f"scores_step_is_layer/differential_{name}" for name in RECIPES} < {*tags["histograms"]}


def test_pages_are_made_again_from_the_files(run: Path) -> None:
    for directory in (run, *(run / "recipes" / name for name in RECIPES)):
        before = (directory / "report.html").read_bytes()
        write_report(directory)
        assert (directory / "report.html").read_bytes() == before


def test_inspect_and_compare_show_every_recipe(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(run)])
    told = capsys.readouterr().out
    assert "Behaviours side by side" in told
    assert "Do the behaviours share weights?" in told
    main(["inspect", str(run / "recipes" / "shared")])
    assert f"Recipe: {WeightRecipe.load(run / 'recipes' / 'shared').num} weights of 53,424" in capsys.readouterr().out
    shutil.copytree(run, tmp_path / "again", ignore=shutil.ignore_patterns("scores", "trials"))
    main(["compare", str(run), str(tmp_path / "again")])
    told = capsys.readouterr().out
    recipes = told[told.index("Recipes: change") : told.index("Selection")]
    assert all(f" {name} " in recipes for name in RECIPES)
    assert " weights " in recipes


def test_a_run_that_failed_after_its_screens_goes_on_there(run: Path, tmp_path: Path) -> None:
    config = config_in(tmp_path)
    failing = mock.patch("callbacks.evaluation.draw_controls", side_effect=RuntimeError("the power went"))
    with failing, pytest.raises(RuntimeError, match="the power went"):
        command("predict", config, tmp_path, *BRIEF)
    first = tmp_path / "tiny_behaviours" / "version_0"
    measured = {path.name: path.read_bytes() for path in (first / "trials").glob("screen-*.jsonl")}
    assert measured
    assert log_dir(command("predict", config, tmp_path, *BRIEF)) == first
    assert {path.name: path.read_bytes() for path in (first / "trials").glob("screen-*.jsonl")} == measured
    for name in RECIPES:
        assert WeightRecipe.load(first / "recipes" / name) == WeightRecipe.load(run / "recipes" / name)
    for name in ("behaviours.csv", "behaviours_overlap.csv"):
        assert (first / name).read_bytes() == (run / name).read_bytes()
    assert written(first / "recipes") == written(run / "recipes")


def test_without_a_screen_each_recipe_is_what_is_compared(run: Path, tmp_path: Path) -> None:
    config = config_in(tmp_path, screen=None, recipes=["each"], specific_to=None)
    again = log_dir(command("predict", config, tmp_path, *BRIEF, f"--model.trials_dir={run / 'trials'}"))
    (row,) = rows_of(again / "behaviours_overlap.csv")
    first, second = (WeightRecipe.load(again / "recipes" / name) for name in RECIPES[:2])
    assert (first.num, second.num) == (int(row["num_weights"]),) * 2
    shared = [
        np.intersect1d(first.weights[name], second.weights[name]) for name in first.weights if name in second.weights
    ]
    assert int(row["num_shared"]) == sum(map(len, shared))
