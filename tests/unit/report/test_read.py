"""A run directory is read whole or refused by the name of what is wrong; `sparc3 inspect` shows it."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from sparc3_lightning.files import read_json, write_json
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.report.read import inspect_path, read_run
from sparc3_lightning.report.terminal import print_report
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.unit.evaluation.fake_run import LAYERS, NEURONS, make_run, module
from tests.unit.report.conftest import write_behaviours_dir, write_run


def test_scores_are_those_of_the_score_sets(run_dir: Path) -> None:
    run, neurons = make_run(), read_run(run_dir).neurons
    sets = [run.score_sets[name].scores for name in run.general]
    general = {name: torch.stack([scores[name].double() for scores in sets]).mean(0) for name in sets[0]}
    np.testing.assert_allclose(neurons.general, torch.cat([general[module(i)] for i in range(LAYERS)]), rtol=1e-12)
    toxic = run.score_sets["toxic"].scores
    np.testing.assert_allclose(neurons.behaviour, torch.cat([toxic[module(i)] for i in range(LAYERS)]), rtol=1e-12)
    assert np.flatnonzero(neurons.is_selected).tolist() == [1 * NEURONS + 3, 2 * NEURONS + 7]


def test_layers_are_in_order_where_there_are_more_than_ten(tmp_path: Path) -> None:
    """As text, layer 10 comes before layer 2."""
    run = make_run()
    for name, score_set in run.score_sets.items():
        layers = {module(layer): torch.full((3,), layer + 1.0) for layer in range(12)}
        run.score_sets[name] = ScoreSet(layers, score_set.manifest)
    run.recipe = Recipe([(2, 1)], [-1.0], run.base_model, run.recipe.options if run.recipe else {})
    run.base_model["num_layers"] = 12
    neurons = read_run(write_run(run, tmp_path / "run")).neurons
    assert neurons.behaviour.tolist() == [layer + 1.0 for layer in range(12) for _ in range(3)]
    assert neurons.behaviour[neurons.is_selected].tolist() == [3.0]


def test_a_weight_score_counts_as_its_row_s_sum_and_other_layers_do_not(tmp_path: Path) -> None:
    run, weight = make_run(), torch.tensor([0.25, 0.75])
    plain = read_run(write_run(run, tmp_path / "neurons")).neurons
    for name, score_set in run.score_sets.items():
        wide = {layer: score[:, None] * weight for layer, score in score_set.scores.items()}
        wide["model.layers.0.mlp.down_proj"] = torch.ones(2, 2)
        run.score_sets[name] = ScoreSet(wide, score_set.manifest)
        shutil.rmtree(tmp_path / "neurons" / "scores" / name)
        run.score_sets[name].save(tmp_path / "neurons" / "scores" / name)
    np.testing.assert_allclose(read_run(tmp_path / "neurons").neurons.behaviour, plain.behaviour, rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "experiment_results.json",
        "pruned_neurons.json",
        "baseline_eval.json",
        "pruned_eval.json",
        "control_eval.json",
        "scores/toxic/manifest.json",
        "scores/general_seed1/scores.safetensors",
    ],
)
def test_a_missing_file_is_named(name: str, run_dir: Path) -> None:
    (run_dir / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        read_run(run_dir)


def test_no_run_and_an_unfinished_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no run directory at .*nowhere"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"EvaluationCallback.*finished run"):
        read_run(tmp_path)


def test_without_a_control_its_file_is_not_needed(tmp_path: Path) -> None:
    run = make_run(controls=[])
    run.controls = []
    directory = write_run(run, tmp_path / "run")
    (directory / "control_eval.json").unlink()
    assert read_run(directory).controls == []


@pytest.mark.parametrize("content", ["[]", '{"verdict": {}}', "{"])
def test_results_that_are_none_are_refused(content: str, run_dir: Path) -> None:
    (run_dir / "experiment_results.json").write_text(content)
    with pytest.raises(ValueError, match=r"experiment_results\.json"):
        read_run(run_dir)


def test_results_of_another_version_are_told(run_dir: Path) -> None:
    path = run_dir / "experiment_results.json"
    write_json(path, {**read_json(path), "format_version": 2})
    with pytest.raises(ValueError, match="must be of format_version 4, got 2"):
        read_run(run_dir)


def test_changed_scores_are_refused(run_dir: Path) -> None:
    file = run_dir / "scores" / "toxic" / "scores.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match=r"toxic/scores\.safetensors must have sha256"):
        read_run(run_dir)


def test_a_recipe_of_another_model_is_refused(run_dir: Path) -> None:
    recipe = read_json(run_dir / "pruned_neurons.json")
    recipe["neurons"][0]["index"] = NEURONS
    del recipe["sha256"]
    write_json(run_dir / "pruned_neurons.json", recipe)
    with pytest.raises(ValueError, match=f"no score of neuron {NEURONS} in layer"):
        read_run(run_dir)


def test_evaluations_of_other_prompts_are_refused(run_dir: Path) -> None:
    pruned = read_json(run_dir / "pruned_eval.json")
    pruned["toxicity"]["prompts"].reverse()
    write_json(run_dir / "pruned_eval.json", pruned)
    with pytest.raises(ValueError, match=r"pruned_eval\.json.*other prompts"):
        read_run(run_dir)


def test_config_and_provenance_are_read_where_they_are(run_dir: Path) -> None:
    assert (read_run(run_dir).config, read_run(run_dir).provenance) == (None, None)
    (run_dir / "config.yaml").write_text("seed_everything: 0\n")
    write_json(run_dir / "provenance.json", {"commit": "abc"})
    assert (read_run(run_dir).config, read_run(run_dir).provenance) == ("seed_everything: 0\n", {"commit": "abc"})


def printed(path: Path) -> str:
    file = io.StringIO()
    print_report(inspect_path(path, top=5), Console(file=file, width=80, markup=False, highlight=False))
    return file.getvalue()


def test_a_run_is_its_results_and_its_recipe(run_dir: Path) -> None:
    report = inspect_path(run_dir, top=1)
    assert report["kind"] == "run"
    assert report["results"] == read_json(run_dir / "experiment_results.json")
    assert report["recipe"]["num_neurons"] == 2
    assert len(report["recipe"]["top_neurons"]) == 1
    assert inspect_path(run_dir / "experiment_results.json", top=1) == report


def test_a_run_is_shown_verdict_first_and_places_last(run_dir: Path) -> None:
    text = printed(run_dir)
    assert max(map(len, text.splitlines())) <= 80 + len(str(run_dir)), "only paths are longer: they are never broken"
    text = " ".join(text.split())
    parts = [
        "made-up/model",
        "Removing these 2 neurons lowered toxicity",
        "Pruned against baseline",
        "Control: mean of 2 draws",
        "general_seed0 general 10 128.00",
        "toxic behaviour 5 20.00",
        "Recipe: 2 neurons",
        "Neurons per layer",
        f"Written to {run_dir}",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_a_results_file_alone_is_enough(run_dir: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "experiment_results.json"
    alone.parent.mkdir()
    shutil.copy(run_dir / "experiment_results.json", alone)
    assert inspect_path(alone, top=5)["recipe"] is None
    assert "Removing these 2 neurons" in printed(alone)
    assert "Recipe:" not in printed(alone)


def test_a_run_with_a_recipe_alone_says_what_it_has(run_dir: Path) -> None:
    """Results that are missing beside evaluations are another matter: they were lost, or not written yet."""
    (run_dir / "experiment_results.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no experiment results at .*experiment_results\.json"):
        read_run(run_dir)
    for name in ("baseline", "pruned", "control"):
        (run_dir / f"{name}_eval.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"holds a recipe, but no evaluation: .*EvaluationCallback.*sparc3 test"
    ):
        read_run(run_dir)
    assert inspect_path(run_dir, top=5)["kind"] == "recipe"


@pytest.mark.parametrize("name", ["baseline_eval.json", "control_eval.json", "screen.csv"])
def test_another_file_of_a_run_is_told_what_to_pass(name: str, run_dir: Path) -> None:
    (run_dir / "screen.csv").touch()
    with pytest.raises(ValueError, match=rf"{name} is no recipe. `inspect` shows run directories"):
        inspect_path(run_dir / name, top=5)


def test_a_run_is_shown_without_torch_and_pictures(run_dir: Path, tmp_path: Path) -> None:
    alone = write_behaviours_dir(tmp_path / "alone")
    code = f"""
import sys
from sparc3_lightning.main import main
main(["inspect", {str(run_dir)!r}])
main(["inspect", {str(alone)!r}])
print(*(name for name in ("torch", "transformers", "matplotlib", "numpy") if name in sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
