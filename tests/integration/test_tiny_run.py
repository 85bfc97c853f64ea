"""`sparc3 predict --config configs/tiny/suppress.yaml` as a user runs it: what it leaves, and that it does so again."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from sparc3_lightning.cli import SparC3CLI
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.select import select_neurons
from sparc3_lightning.scoring.combine import differential
from sparc3_lightning.scoring.plain import attribute
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.version import __version__
from tests.runs import BRIEF, QUIET, TINY, board, command, log_dir, read, written
from tests.tiny_files import same_weights

pytestmark = QUIET

SETS = ("general_seed0", "general_seed1", "general_seed2", "toxic")
EVALUATIONS = ("baseline_eval.json", "pruned_eval.json", "control_eval.json")
NUM_NEURONS = 8


@pytest.fixture(scope="module")
def save_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def first(save_dir: Path) -> SparC3CLI:
    return command("predict", TINY, save_dir)


@pytest.fixture(scope="module")
def results(first: SparC3CLI) -> Path:
    return log_dir(first)


def same_results(one: Path, other: Path) -> bool:
    """Whether two runs agree to the last bit: scores, neurons, every completion and figure."""
    for name in (*SETS, "differential"):
        ours, theirs = (ScoreSet.load(run / "scores" / name) for run in (one, other))
        if any(not torch.equal(ours.scores[layer], theirs.scores[layer]) for layer in ours.scores):
            return False
        if ours.manifest.get("data") != theirs.manifest.get("data"):
            return False
    recipes = [Recipe.load(run / "pruned_neurons.json") for run in (one, other)]
    if (recipes[0].neurons, recipes[0].scores) != (recipes[1].neurons, recipes[1].scores):
        return False
    return all(read(one / name) == read(other / name) for name in EVALUATIONS)


def test_run_leaves_what_architecture_lists(results: Path) -> None:
    files = written(results)
    expected = ["config.yaml", "provenance.json", "pruned_neurons.json", "experiment_results.json", *EVALUATIONS]
    expected += ["report.html", "figures/relevance.png", "figures/relevance.svg", "figures/toxicity_pairs.svg"]
    expected += [f"scores/{name}/manifest.json" for name in (*SETS, "differential")]
    expected += [f"scores/{name}/scores.safetensors" for name in (*SETS, "differential")]
    expected += [f"pruned_model/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md")]
    assert set(expected) <= set(files)
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert not [name for name in files if ".tmp" in name]
    assert {(results / name).stat().st_mode & 0o777 for name in expected if name != "config.yaml"} == {0o644}


def test_the_report_is_remade_from_files_without_torch(results: Path) -> None:
    """Byte for byte, config and provenance included."""
    before = (results / "report.html").read_bytes()
    (results / "report.html").unlink()
    code = (
        f"import sys; from sparc3_lightning.main import main; main(['report', {str(results)!r}]); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (results / "report.html").read_bytes() == before
    assert not {"torch", "transformers", "lightning", "matplotlib.pyplot"} & set(done.stdout.split())
    assert b"seed_everything: 0" in before


def test_config_and_provenance_say_how(results: Path) -> None:
    config, provenance = read(results / "config.yaml"), read(results / "provenance.json")
    assert config["seed_everything"] == 0
    assert config["trainer"]["inference_mode"] is False
    assert config["model"]["config"]["intermediate_size"] == 64
    assert config["model"]["sign"] == "abs", "defaults are spelled out"
    assert provenance["versions"]["sparc3-lightning"] == __version__
    assert provenance["world_size"] == 1


def test_scores_are_attribute_s(first: SparC3CLI, results: Path) -> None:
    for name in SETS:
        samples = first.datamodule.reference_samples[name]
        expected, found = attribute(first.model.lm, samples.ids), ScoreSet.load(results / "scores" / name)
        assert found.scores.keys() == expected.scores.keys()
        for layer, score in expected.scores.items():
            assert (found.scores[layer] - score).abs().max() <= 1e-6 * score.max()
        assert found.manifest["data"]["token_hash"] == expected.manifest["data"]["token_hash"] == samples.token_hash
        assert found.manifest["data"]["target_ids"] == expected.manifest["data"]["target_ids"]
        assert found.manifest["options"] == expected.manifest["options"]
        assert found.manifest["data"]["sample_ids"] == samples.sample_ids


def test_recipe_is_plain_python_s(results: Path) -> None:
    sets = {name: ScoreSet.load(results / "scores" / name) for name in SETS}
    expected = select_neurons(differential([sets[name] for name in SETS[:3]], sets["toxic"]), NUM_NEURONS)
    recipe = Recipe.load(results / "pruned_neurons.json")
    assert (recipe.neurons, recipe.scores) == (expected.neurons, expected.scores)
    assert recipe.scores == sorted(recipe.scores)
    assert recipe.base_model == sets["toxic"].manifest["base_model"]


def test_pruned_model_reloads_with_its_neurons_at_zero(first: SparC3CLI, results: Path) -> None:
    pruned = AutoModelForCausalLM.from_pretrained(results / "pruned_model")
    recipe = Recipe.load(results / "pruned_neurons.json")
    assert isinstance(pruned, LlamaForCausalLM)
    for layer, index in recipe.neurons:
        mlp = pruned.model.layers[layer].mlp
        for weights in (mlp.up_proj.weight[index], mlp.gate_proj.weight[index], mlp.down_proj.weight[:, index]):
            assert torch.count_nonzero(weights) == 0
    dense = first.model.lm
    assert not same_weights(pruned, dense)
    with torch.no_grad():
        for layer, index in recipe.neurons:
            mlp, whole = pruned.model.layers[layer].mlp, dense.model.layers[layer].mlp
            mlp.up_proj.weight[index] = whole.up_proj.weight[index]
            mlp.gate_proj.weight[index] = whole.gate_proj.weight[index]
            mlp.down_proj.weight[:, index] = whole.down_proj.weight[:, index]
    assert same_weights(pruned, dense), "nothing else was touched, and the run's own model was restored"
    assert len(AutoTokenizer.from_pretrained(results / "pruned_model")) == len(first.model.tokenizer)


def test_results_hold_both_evaluations_and_the_validation(first: SparC3CLI, results: Path) -> None:
    found, prompts = read(results / "experiment_results.json"), first.datamodule.prompts
    attributed = first.datamodule.reference_samples["toxic"].sample_ids
    assert not {prompt.id for prompt in prompts} & set(attributed)
    evaluations = [Evaluation.from_json(read(results / name)) for name in EVALUATIONS[:2]]
    for evaluation in evaluations:
        assert evaluation.toxicity is not None
        assert [row.id for row in evaluation.toxicity.prompts] == [prompt.id for prompt in prompts]
        assert {len(row.completions) for row in evaluation.toxicity.prompts} == {4}
        assert set(evaluation.perplexity) == {"sliding", "disjoint"}
    assert evaluations[0] != evaluations[1]
    assert len(read(results / "control_eval.json")) == 3
    text = str(found)
    for evaluation in evaluations:
        assert str(evaluation.perplexity["sliding"].perplexity) in text
    assert {"verdict", "validation"} <= set(found)


def test_board_shows_the_run(results: Path) -> None:
    tags = board(results).Tags()
    assert any(tag.startswith("perplexity") for tag in tags["scalars"]), tags
    assert len(tags["histograms"]) >= len(SETS)
    assert {"neurons_per_layer", "before_and_after"} <= set(tags["images"])
    assert any("completions" in tag for tag in tags["tensors"])


def test_same_seed_same_results(first: SparC3CLI, results: Path, save_dir: Path) -> None:
    """Trap 3: YAML cannot turn inference mode on."""
    cli = command("predict", TINY, save_dir, "--trainer.inference_mode=true")
    assert cli.trainer.predict_loop.inference_mode is False
    again = log_dir(cli)
    assert read(again / "config.yaml")["trainer"]["inference_mode"] is False
    assert again != results
    assert same_results(results, again)


def test_saved_config_reruns_the_run(results: Path, tmp_path: Path) -> None:
    again = log_dir(command("predict", results / "config.yaml", tmp_path))
    assert same_results(results, again)
    ours, theirs = read(results / "config.yaml"), read(again / "config.yaml")
    for config in (ours, theirs):
        del config["trainer"]["logger"]["init_args"]["save_dir"]
    assert ours == theirs


def test_another_seed_is_another_model(results: Path, tmp_path: Path) -> None:
    """The comparison above can tell runs apart."""
    other = log_dir(command("predict", TINY, tmp_path, *BRIEF, "--seed_everything=1"))
    assert read(other / "config.yaml")["seed_everything"] == 1
    assert not same_results(results, other)


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({"granularity": "weight", "modules": "all"}, 22),
        ({"granularity": "weight"}, 3),
        ({"sign": "signed"}, 3),
        ({"variant": "cp_lrp", "modules": "all"}, 22),
        ({"target": "contrast:5:6"}, 3),
    ],
)
def test_other_options_of_attribution(options: dict[str, str], shapes: int, tmp_path: Path) -> None:
    cli = command("predict", TINY, tmp_path, *BRIEF, *(f"--model.{key}={value}" for key, value in options.items()))
    scores = ScoreSet.load(log_dir(cli) / "scores" / "toxic")
    expected = attribute(cli.model.lm, cli.datamodule.reference_samples["toxic"].ids, **options)  # type: ignore[arg-type]
    assert len(scores.scores) == shapes
    assert {score.ndim for score in scores.scores.values()} == {2 if "granularity" in options else 1}
    for layer, score in expected.scores.items():
        assert (scores.scores[layer] - score).abs().max() <= 1e-6 * score.abs().max()
    for key, value in options.items():
        assert scores.manifest["options"][key] == value  # type: ignore[literal-required]
    assert any((score < 0).any() for score in scores.scores.values()) == (options.get("sign") == "signed")
    assert len(Recipe.load(log_dir(cli) / "pruned_neurons.json").neurons) == NUM_NEURONS


def test_model_is_plain_afterwards(first: SparC3CLI) -> None:
    assert first.model.attribution is None
    assert first.model.lm.config._attn_implementation == "sdpa"
    assert first.trainer.predict_loop.inference_mode is False
