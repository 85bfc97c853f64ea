"""A screen by completions, where nothing is known to follow the behaviour's prompts, as a user runs it."""

import csv
from pathlib import Path

import pytest
import yaml

from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.weight_recipe import WeightRecipe
from tests.runs import QUIET, ROOT, TINY, command, log_dir, read

pytestmark = QUIET

# What a random model says often enough: every candidate that makes it rarer may be chosen.
COMMON = ["a", "at", "baker", "boat", "box", "clean", "early", "farmer", "garden", "hid", "map", "old", "road", "soon"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = read(ROOT / TINY)
    pruning = next(one for one in content["trainer"]["callbacks"] if one["class_path"] == "callbacks.PruningCallback")
    pruning["init_args"] = {
        "num_neurons": 3, "screen": {"num_candidates": 30, "price_weight": 0.0, "num_price_tokens": 100}
    }  # fmt: skip
    path = {"path": "configs/tiny/general.txt"}
    content["data"]["price"] = {"text": {"class_path": "sparc3_lightning.data.TextFile", "init_args": path}}
    content["model"]["evaluator"]["init_args"]["scorer"]["init_args"]["words"] = COMMON
    path = tmp_path_factory.mktemp("config") / "screen.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_every_table_says_the_unit(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = log_dir(command("predict", config, tmp_path, "--model.evaluator.init_args.num_draws=50"))
    with (run / "screen.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    assert {row["unit"] for row in rows} == {"toxicity"}
    assert {float(row["ordinary"]) for row in rows} == {0.0}
    recipe = Recipe.load(run)
    chosen = {int(row["chosen"]): (int(row["layer"]), int(row["index"])) for row in rows if row["chosen"]}
    assert [chosen[place] for place in sorted(chosen)] == recipe.neurons
    assert all(float(row["effect"]) > 0 and float(row["confirmed"]) > 0 for row in rows if row["chosen"])
    assert {one["unit"] for one in recipe.measured} == {"toxicity"}
    results = read(run / "experiment_results.json")
    assert results["selection"]["screen"]["unit"] == results["predictions"]["unit"] == "toxicity"
    page, told = (run / "report.html").read_text(), capsys.readouterr().out.replace("\n", " ")
    for shown in (page, told):
        assert "lower the mean toxicity of the behaviour" in shown
        assert "half of the prompts" in shown.lower()
        assert "of the words" not in shown.lower()


def test_rows_of_single_weights_are_screened_alike(config: Path, tmp_path: Path) -> None:
    content = read(config)
    pruning = next(one for one in content["trainer"]["callbacks"] if one["class_path"] == "callbacks.PruningCallback")
    pruning["init_args"] |= {"num_neurons": None, "sparsity": 0.01}
    content["model"] |= {"granularity": "weight", "modules": "all"}
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump(content))
    run = log_dir(command("predict", tmp_path / "weights.yaml", tmp_path, "--model.evaluator.init_args.num_draws=50"))
    recipe = WeightRecipe.load(run)
    with (run / "screen.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    assert {row["unit"] for row in rows} == {one["unit"] for one in recipe.measured} == {"toxicity"}
    assert recipe.rows == [
        (row["module"], int(row["row"])) for row in sorted(rows, key=lambda row: int(row["chosen"] or 99))
        if row["chosen"]
    ]  # fmt: skip
    assert {(name, index // recipe.shapes[name][1]) for name, found in recipe.weights.items() for index in found} == {
        *recipe.rows
    }


def test_no_scorer_is_said_before_attribution(config: Path, tmp_path: Path) -> None:
    content = read(config)
    callbacks = content["trainer"]["callbacks"]
    content["trainer"]["callbacks"] = [one for one in callbacks if "Evaluation" not in one["class_path"]]
    del content["model"]["evaluator"]["init_args"]["scorer"]
    (tmp_path / "screen.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"of `data\.behaviours\.toxic`.*`model\.evaluator\.init_args\.scorer`"):
        command("predict", tmp_path / "screen.yaml", tmp_path)
    assert not list(tmp_path.rglob("*.safetensors")), "nothing was attributed"
