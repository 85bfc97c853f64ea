"""`sparc3 predict --config configs/tiny/weights.yaml` as a user runs it, and every command that takes its recipe."""

import csv
import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from sparc3_lightning import WeightRecipe, apply_recipe, differential, load_recipe, select_weights
from sparc3_lightning.main import main
from sparc3_lightning.models.families.layers import weight_of
from sparc3_lightning.models.identity import base_model
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.pruning.select_weights import scored_by
from sparc3_lightning.report.page import write_report
from sparc3_lightning.report.read import read_run
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.integration.test_fit import FIT, push_every_weight
from tests.runs import BRIEF, QUIET, ROOT, TINY, board, command, log_dir, read, written
from tests.tiny_files import same_weights

pytestmark = QUIET

WEIGHTS = "configs/tiny/weights.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return log_dir(command("predict", WEIGHTS, tmp_path_factory.mktemp("weights"), *BRIEF))


def zeroed(model: torch.nn.Module, recipe: WeightRecipe) -> list[bool]:
    return [
        bool((weight_of(model.get_submodule(name)).flatten()[torch.from_numpy(indices).long()] == 0).all())
        for name, indices in recipe.weights.items()
    ]


def test_the_recipe_is_the_union_of_the_rows_chosen(run: Path) -> None:
    recipe, results = WeightRecipe.load(run), read(run / "experiment_results.json")
    with (run / "screen.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    chosen = {int(row["chosen"]): (row["module"], int(row["row"])) for row in rows if row["chosen"]}
    assert recipe.rows == [chosen[place] for place in sorted(chosen)]
    assert all(min(float(row[key]) for key in ("value", "effect", "confirmed")) > 0 for row in rows if row["chosen"])
    assert [float(row["score"]) for row in rows] == sorted(float(row["score"]) for row in rows)
    contrast = ScoreSet.load(run / "scores" / "differential")
    assert scored_by(contrast, recipe) == recipe
    assert recipe.num < round(0.001 * contrast.num_scores) == 53
    assert recipe.base_model["weight_hash"] == results["base_model"]["weight_hash"]
    assert [one["value"] for one in recipe.measured] == sorted((o["value"] for o in recipe.measured), reverse=True)


def test_results_page_and_figures_speak_of_weights(run: Path) -> None:
    recipe, results = WeightRecipe.load(run), read(run / "experiment_results.json")
    selection = results["selection"]
    assert (selection["num_weights"], selection["num_weights_scored"]) == (recipe.num, 53_424)
    assert selection["sparsity"] == 0.001
    assert selection["parts"] == recipe.parts()
    assert "num_asked" not in selection["screen"], "all that are worth their price were"
    assert sum(part["num_removed"] for part in selection["parts"]) == recipe.num
    scores = np.concatenate([*recipe.scores.values()])
    assert (selection["lowest_score"], selection["highest_score"]) == (scores.min(), scores.max())
    assert selection["num_below_zero"] == recipe.num
    assert not {"num_neurons", "neurons_per_layer"} & selection.keys()
    assert f"Removing these {recipe.num} weights" in results["verdict"]["headline"]
    page = (run / "report.html").read_text()
    for told in (f"{recipe.num} weights removed from", "Weights removed, by layers", "mlp.down_proj",
                 f"{recipe.num} random weights of the same layers", "Weights and scores"):  # fmt: skip
        assert told in page
    assert "neurons" not in page.split("How it was made")[0].split("</style>")[1]
    names = {path.stem for path in (run / "figures").glob("*.svg")}
    assert {"weights_per_layer", "relevance_and_effect", "methods_and_effect"} <= names
    assert not {"relevance", "neurons_per_layer"} & names
    images = {*board(run).Tags()["images"]}
    assert "weights_per_layer" in images
    assert list(results["predictions"]["methods"]) == ["lrp_signed", "gradient_signed", "random"]


def test_the_page_is_made_again_from_the_files_alone(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "version_0")
    before = (run / "report.html").read_bytes()
    write_report(tmp_path / "version_0")
    assert (tmp_path / "version_0" / "report.html").read_bytes() == before
    shutil.rmtree(tmp_path / "version_0" / "scores")
    assert read_run(tmp_path / "version_0").neurons is None, "scores are not needed"
    (tmp_path / "version_0" / "pruned_weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no indices of the weights"):
        read_run(tmp_path / "version_0")


def test_controls_are_as_many_weights_of_the_same_layers(run: Path) -> None:
    keys = [read(path)["key"]["intervention"] for path in (run / "trials").glob("*.json")]
    kinds = sorted(key["kind"] for key in keys)
    assert kinds == ["none", "weights", "weights", "weights", "weights"]
    assert WeightRecipe.load(run).sha256 in [key.get("indices") for key in keys]


def test_the_saved_model_lacks_them_and_apply_makes_it_again(run: Path, tmp_path: Path) -> None:
    recipe, pruned = WeightRecipe.load(run), AutoModelForCausalLM.from_pretrained(run / "pruned_model")
    assert load_recipe(run / "pruned_model") == recipe
    assert all(zeroed(pruned, recipe))
    base = tmp_path / "base"
    shutil.copytree(run / "pruned_model", base)
    for name in ("pruned_weights.json", "pruned_weights.safetensors"):
        (base / name).unlink()
    module = command("test", run / "config.yaml", tmp_path, *BRIEF).model
    module.lm.save_pretrained(base)
    main(["apply", "--recipe", str(run), "--model", str(base), "--output", str(tmp_path / "again")])
    assert same_weights(AutoModelForCausalLM.from_pretrained(tmp_path / "again"), pruned)
    assert not same_weights(AutoModelForCausalLM.from_pretrained(base), pruned)


def test_a_test_with_the_recipe_measures_the_pruned_trial(run: Path, tmp_path: Path) -> None:
    cli = command("test", run / "config.yaml", tmp_path, *BRIEF, f"--model.recipe={run}")
    tested, pruned = read(log_dir(cli) / "pruned_eval.json"), read(run / "pruned_eval.json")
    assert tested["columns"] == pruned["columns"]
    assert tested["columns"] != read(run / "baseline_eval.json")["columns"]
    assert tested["toxicity"]["prompts"] == pruned["toxicity"]["prompts"]


def test_fit_holds_them_at_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = log_dir(command("fit", FIT, tmp_path, "--trainer.max_steps=3")) / "model"
    monkeypatch.setattr(SparC3Module, "on_before_optimizer_step", push_every_weight)
    dense = AutoModelForCausalLM.from_pretrained(trained)
    shapes = {name: tuple(dense.get_submodule(name).weight.shape) for name in ("lm_head", "model.layers.1.mlp.up_proj")}
    gone = {name: np.arange(3, 400, 7) for name in shapes}
    recipe = WeightRecipe(gone, shapes, base_model=base_model(dense, str(trained)))
    source = [f"--model.model={trained}", "--model.config=null", "--model.tokenizer=null"]
    options = [*source, f"--model.recipe={recipe.save(tmp_path / 'r.json')}", "--trainer.max_steps=4"]
    cli = command("fit", FIT, tmp_path, *options, "--model.warmup_steps=0", "--data.val_text=null")
    tuned = AutoModelForCausalLM.from_pretrained(log_dir(cli) / "model")
    assert all(zeroed(tuned, recipe))
    assert load_recipe(log_dir(cli) / "model").sha256 == recipe.sha256  # type: ignore[union-attr]
    apply_recipe(dense, recipe)
    assert not same_weights(tuned, dense), "all others have moved"


def test_inspect_shows_the_file_and_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = WeightRecipe.load(run)
    for path in (run / "pruned_weights.json", run / "pruned_weights.safetensors", run / "pruned_model"):
        main(["inspect", str(path)])
        shown = capsys.readouterr().out
        assert f"Recipe: {recipe.num} weights of 53,424" in shown
        assert "Weights removed, by kind of layer" in shown
        assert "First rows (highest value first; in nats" in shown
    main(["inspect", str(run)])
    shown = capsys.readouterr().out
    assert "Weights and scores" in shown
    assert "Weights removed, by layers" in shown
    main(["inspect", str(run / "pruned_weights.json"), "--json", "--top", "2"])
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["num_weights"], len(found["top_rows"])) == ("recipe of weights", recipe.num, 2)
    assert {"module", "row", "score", "effect", "price", "value"} < found["top_rows"][0].keys()


def test_select_from_the_scores_without_a_screen(run: Path, tmp_path: Path) -> None:
    sets = ["--general", str(run / "scores/ordinary"), "--behaviour", str(run / "scores/toxic")]
    main(["select", *sets, "--general_penalty", "abs", "--sparsity", "0.001", "--output", str(tmp_path)])
    found, recipe = WeightRecipe.load(tmp_path), WeightRecipe.load(run)
    assert found.num == 53
    assert all({*recipe.weights[name]} <= {*found.weights[name]} for name in recipe.weights)


def test_what_was_measured_is_found_again(run: Path, tmp_path: Path) -> None:
    """By another run with the same trials: the same recipe, and nothing measured anew."""
    shutil.copytree(run / "trials", tmp_path / "trials")
    before = written(tmp_path / "trials")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").iterdir() if path.suffix != ".lock"}
    again = log_dir(command("predict", WEIGHTS, tmp_path, *BRIEF, f"--model.trials_dir={tmp_path / 'trials'}"))
    assert WeightRecipe.load(again) == WeightRecipe.load(run)
    assert written(tmp_path / "trials") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_run_that_failed_after_its_screen_goes_on_there(run: Path, tmp_path: Path) -> None:
    failing = mock.patch("callbacks.evaluation.draw_controls", side_effect=RuntimeError("the power went"))
    with failing, pytest.raises(RuntimeError, match="the power went"):
        command("predict", WEIGHTS, tmp_path, *BRIEF)
    first = tmp_path / "tiny_weights" / "version_0"
    (figures,) = (first / "trials").glob("screen-*.jsonl")
    measured = figures.read_bytes()
    assert log_dir(command("predict", WEIGHTS, tmp_path, *BRIEF)) == first
    assert figures.read_bytes() == measured
    assert WeightRecipe.load(first) == WeightRecipe.load(run)
    assert read(first / "pruned_eval.json")["columns"] == read(run / "pruned_eval.json")["columns"]


def variant(tmp_path: Path, pruning: dict[str, object], **model: object) -> Path:
    content = read(ROOT / TINY)
    callbacks = {one["class_path"]: one for one in content["trainer"]["callbacks"]}
    callbacks["callbacks.PruningCallback"]["init_args"] = pruning
    content["model"] |= model
    (tmp_path / "variant.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "variant.yaml"


def test_seeds_are_compared_by_the_weights_each_would_select(tmp_path: Path) -> None:
    config = variant(tmp_path, pruning={"sparsity": 0.01, "scope": "layer"}, granularity="weight", modules="all")
    run = log_dir(command("predict", config, tmp_path, *BRIEF))
    recipe, found = WeightRecipe.load(run), read(run / "experiment_results.json")["validation"]["seed_variation"]
    assert recipe.rows == []
    assert recipe.num == 3 * round(0.01 * 16_128) + round(0.01 * 5_040) == found["k"]
    assert found["overlap_by_chance"] == pytest.approx(recipe.num / 53_424)
    assert 0 < found["selection_overlap"]["mean"] <= 1
    first, second = [select_own(run, name).weights for name in ("general_seed0", "general_seed1")]
    same = sum(len(np.intersect1d(first[name], second[name])) for name in first.keys() & second.keys())
    pair = found["selection_overlap"]["pairs"]["general_seed0 / general_seed1"]
    assert pair == pytest.approx(same / recipe.num)
    assert "a weight's score varies" in found["meaning"]["coefficient_of_variation"]
    assert "of the weights that one set alone would select" in (run / "report.html").read_text()


def select_own(run: Path, general: str) -> WeightRecipe:
    sets = [ScoreSet.load(run / "scores" / name) for name in (general, "toxic")]
    return select_weights(differential(*sets), 0.01, "layer")


@pytest.mark.parametrize(
    ("pruning", "model", "said"),
    [
        ({"sparsity": 0.01, "num_neurons": 5}, {}, "goes in the place of `num_neurons`, got both, 0.01 and 5"),
        ({"sparsity": 0.01}, {}, r"got granularity 'neuron'.*Set `model\.granularity: weight`"),
        ({"sparsity": 1.5}, {"granularity": "weight"}, r"`sparsity` must lie above 0 and below 1, got 1\.5"),
    ],
)
def test_what_cannot_be(pruning: dict[str, object], model: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        command("predict", variant(tmp_path, pruning=pruning, **model), tmp_path)
    assert not [name for name in written(tmp_path) if "manifest.json" in name], "before attribution"
