"""The main job on real input: tests/configs/realtext.yaml whole (slow), and a small share of it."""

from pathlib import Path

import pytest
import torch

from sparc3_lightning.models.load import load_model
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.select import select_neurons
from sparc3_lightning.scoring.combine import differential
from sparc3_lightning.scoring.plain import attribute
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.runs import QUIET, ROOT, board, command, log_dir, read, samples_of

pytestmark = QUIET

CONFIG = ROOT / "tests" / "configs" / "realtext.yaml"
SETS = ("general_seed0", "general_seed1", "general_seed2", "toxic")
# realtext_lm/SOURCE.txt: perplexity of heldout.txt, 120,497 tokens, window 128.
PUBLISHED = {"disjoint": "78.92", "sliding": "77.00"}
NUM_TOKENS = 120_497
SMALL = {
    "num_samples: 128": "num_samples: 12",
    "num_control_draws: 5": "num_control_draws: 1",
    "part: attribution}": "part: attribution, num_prompts: 12}",
    "part: evaluation}": "part: evaluation, num_prompts: 10}",
    "num_completions: 4": "num_completions: 2",
}


@pytest.fixture(scope="module")
def config(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config, with the fixtures where they are."""
    text = CONFIG.read_text()
    assert text.count("../shared/fixtures/") > 5
    path = tmp_path_factory.mktemp("config") / "realtext.yaml"
    path.write_text(text.replace("../shared/fixtures/", f"{fixtures}/"))
    return path


def figures(results: Path) -> dict[str, str]:
    perplexity = read(results / "baseline_eval.json")["perplexity"]
    assert {found["num_tokens"] for found in perplexity.values()} == {NUM_TOKENS}
    assert {found["window"] for found in perplexity.values()} == {128}
    return {name: f"{found['perplexity']:.2f}" for name, found in perplexity.items()}


@pytest.fixture(scope="module")
def small_config(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A share of everything: 3 x 12 documents, 12 and 10 prompts, 10 paragraphs, one control."""
    home = tmp_path_factory.mktemp("small")
    text = config.read_text()
    for whole, share in SMALL.items():
        assert whole in text
        text = text.replace(whole, share)
    heldout = Path(next(line.split("path: ")[1].rstrip("}") for line in text.splitlines() if "heldout.txt" in line))
    (home / "heldout.txt").write_text("\n".join(heldout.read_text().splitlines()[:10]) + "\n")
    path = home / "small.yaml"
    path.write_text(text.replace(str(heldout), str(home / "heldout.txt")))
    return path


@pytest.fixture(scope="module")
def small(small_config: Path) -> Path:
    return log_dir(command("predict", small_config, small_config.parent / "runs"))


def test_validate_agrees_with_the_run(small: Path, small_config: Path, tmp_path: Path) -> None:
    """The published figures of the whole text are met in the slow test, and by the evaluator alone in its own."""
    cli = command("validate", small_config, tmp_path)
    expected = read(small / "baseline_eval.json")["perplexity"]
    assert 50 < expected["disjoint"]["perplexity"] < 120
    for name in PUBLISHED:
        assert float(cli.trainer.callback_metrics[f"perplexity/{name}"]) == pytest.approx(expected[name]["perplexity"])


def test_small_scores_are_attribute_s(small: Path, fixtures: Path) -> None:
    check_scores(small, fixtures, ("general_seed0", "toxic"))


def check_scores(results: Path, fixtures: Path, names: tuple[str, ...]) -> None:
    """The run's scores are those of plain Python on the same samples, in other batches."""
    model = load_model(str(fixtures / "realtext_lm"), dtype="float32")
    for name in names:
        samples = samples_of(results, name, str(fixtures / "realtext_lm"), 128)
        expected, found = attribute(model, samples.ids, batch_size=5), ScoreSet.load(results / "scores" / name)
        assert found.manifest["data"]["token_hash"] == samples.token_hash
        assert found.manifest["data"]["target_ids"] == expected.manifest["data"]["target_ids"]
        for layer, score in expected.scores.items():
            assert (found.scores[layer] - score).abs().max() <= 1e-4 * score.max()


def check_results(results: Path, num_neurons: int = 30) -> None:
    sets = {name: ScoreSet.load(results / "scores" / name) for name in SETS}
    expected = select_neurons(differential([sets[name] for name in SETS[:3]], sets["toxic"]), num_neurons)
    assert Recipe.load(results / "pruned_neurons.json").neurons == expected.neurons
    pruned = load_model(str(results / "pruned_model"))
    for layer, index in expected.neurons:
        mlp = pruned.get_submodule(f"model.layers.{layer}.mlp")
        assert torch.count_nonzero(mlp.up_proj.weight[index]) == 0
        assert torch.count_nonzero(mlp.down_proj.weight[:, index]) == 0
    before, after = (read(results / f"{name}_eval.json")["toxicity"] for name in ("baseline", "pruned"))
    assert before["scorer"].startswith("detoxify")
    assert before["prompts"] != after["prompts"]
    texts = [row["text"] for row in before["prompts"]]
    assert len(set(texts)) == len(texts) == before["num_prompts"]
    for evaluation in (before, after):
        for row in evaluation["prompts"]:
            assert all(not item["text"].startswith(row["text"]) for item in row["completions"])
            assert all(0 <= item["scores"]["toxicity"] <= 1 for item in row["completions"])
    assert {"verdict", "validation"} <= set(read(results / "experiment_results.json"))
    assert any(tag.startswith("perplexity") for tag in board(results).Tags()["scalars"])


def test_small_run_is_whole(small: Path) -> None:
    check_results(small)
    toxicity = read(small / "baseline_eval.json")["toxicity"]
    assert (toxicity["num_prompts"], len(toxicity["prompts"][0]["completions"])) == (10, 2)


def test_small_run_keeps_prompts_apart(small: Path, fixtures: Path) -> None:
    """Attributed prompts are not evaluated, and no token of a sample is another seed's."""
    samples = {name: samples_of(small, name, str(fixtures / "realtext_lm"), 128) for name in SETS}
    evaluated = {row["id"] for row in read(small / "baseline_eval.json")["toxicity"]["prompts"]}
    assert not evaluated & set(samples["toxic"].sample_ids)
    documents = [document for name in SETS[:3] for document in samples[name].sample_ids]
    assert len(documents) == len(set(documents)) == 36


@pytest.mark.slow
def test_whole_run(config: Path, fixtures: Path, tmp_path: Path) -> None:
    results = log_dir(command("predict", config, tmp_path))
    assert figures(results) == PUBLISHED
    check_results(results)
    check_scores(results, fixtures, SETS)
    assert len(read(results / "control_eval.json")) == 5
    toxicity = read(results / "baseline_eval.json")["toxicity"]
    # SOURCE.txt: 0.36 - 0.39 over all prompts; here over half of them.
    assert 0.3 < toxicity["attributes"]["toxicity"]["mean"] < 0.45
