"""`sparc3 validate` and `sparc3 test`: the same figures as the evaluation callback's."""

from pathlib import Path
from typing import Any

import pytest

from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.pruning.recipe import Recipe
from tests.runs import BRIEF, QUIET, TINY, command, log_dir, read, written

pytestmark = QUIET


def evaluation(directory: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = read(directory / f"{name}_eval.json")
    return found


def test_dense_and_pruned_differ(brief_run: Path) -> None:
    assert evaluation(brief_run, "baseline") != evaluation(brief_run, "pruned")


def test_validate_gives_the_baseline_s_perplexity(brief_run: Path, tmp_path: Path) -> None:
    cli = command("validate", TINY, tmp_path)
    expected = evaluation(brief_run, "baseline")["perplexity"]
    measured = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    assert measured == pytest.approx({f"perplexity/{name}": expected[name]["perplexity"] for name in expected})
    assert {"config.yaml", "provenance.json"} <= set(written(log_dir(cli)))


def test_validate_with_a_recipe_gives_the_pruned_one_s(brief_run: Path, tmp_path: Path) -> None:
    cli = command("validate", TINY, tmp_path, f"--model.recipe={brief_run / 'pruned_neurons.json'}")
    expected = evaluation(brief_run, "pruned")["perplexity"]["sliding"]["perplexity"]
    assert float(cli.trainer.callback_metrics["perplexity/sliding"]) == pytest.approx(expected)


def test_test_gives_the_baseline(brief_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = command("test", TINY, tmp_path, *BRIEF)
    places = capsys.readouterr().out.partition(f"Written to {log_dir(cli)}")[2]
    assert "baseline_eval.json" in places
    assert "pruned_eval.json" not in places
    assert evaluation(log_dir(cli), "baseline") == evaluation(brief_run, "baseline")
    assert not (log_dir(cli) / "pruned_eval.json").exists()
    scalars = Evaluation.from_json(evaluation(brief_run, "baseline")).scalars()
    measured = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    assert measured == pytest.approx(scalars)


def test_test_with_a_recipe_gives_the_pruned_one(brief_run: Path, tmp_path: Path) -> None:
    cli = command("test", TINY, tmp_path, *BRIEF, f"--model.recipe={brief_run / 'pruned_neurons.json'}")
    assert evaluation(log_dir(cli), "pruned") == evaluation(brief_run, "pruned")
    assert not (log_dir(cli) / "baseline_eval.json").exists()
    assert cli.model.run.recipe == Recipe.load(brief_run / "pruned_neurons.json")


def test_mixed_precision_is_one_in_every_command(brief_run: Path, tmp_path: Path) -> None:
    """`predict`, `test` and `validate` evaluate in the trainer's precision (32-true: the tests above)."""
    mixed = "--trainer.precision=bf16-mixed"
    after_scores, alone = (
        evaluation(log_dir(command(name, TINY, tmp_path / name, *BRIEF, mixed)), "baseline")
        for name in ("predict", "test")
    )
    assert after_scores == alone
    rounded, exact = alone["perplexity"], evaluation(brief_run, "baseline")["perplexity"]
    for protocol in exact:
        assert rounded[protocol]["perplexity"] != exact[protocol]["perplexity"]
        assert rounded[protocol]["perplexity"] == pytest.approx(exact[protocol]["perplexity"], rel=0.01)
    measured = command("validate", TINY, tmp_path / "validate", mixed).trainer.callback_metrics
    found = {name: float(measured[f"perplexity/{name}"]) for name in rounded}
    assert found == pytest.approx({name: result["perplexity"] for name, result in rounded.items()})


def test_test_of_the_pruned_directory_gives_the_same(brief_run: Path, tmp_path: Path) -> None:
    """What was saved is what was evaluated."""
    source = [f"--model.model={brief_run / 'pruned_model'}", "--model.config=null", "--model.tokenizer=null"]
    cli = command("test", TINY, tmp_path, *BRIEF, *source)
    assert evaluation(log_dir(cli), "baseline") == evaluation(brief_run, "pruned")


@pytest.mark.parametrize("name", ["validate", "test"])
def test_recipe_of_another_model_is_refused(name: str, brief_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weight hash .* Load the base model \(`model\.model`\)\.$"):
        command(name, TINY, tmp_path, "--seed_everything=1", f"--model.recipe={brief_run / 'pruned_neurons.json'}")


def test_validate_without_a_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`data\.evaluation_text`"):
        command("validate", TINY, tmp_path, "--data.evaluation_text=null")


def test_test_with_prompts_only(tmp_path: Path) -> None:
    found = evaluation(log_dir(command("test", TINY, tmp_path, *BRIEF, "--data.evaluation_text=null")), "baseline")
    assert found["perplexity"] == {}
    assert found["toxicity"]["num_prompts"] > 0


def test_test_with_a_text_only(tmp_path: Path) -> None:
    cli = command("test", TINY, tmp_path, "--data.evaluation_prompts=null", "--model.evaluator.init_args.scorer=null")
    found = evaluation(log_dir(cli), "baseline")
    assert found["toxicity"] is None
    assert set(found["perplexity"]) == {"sliding", "disjoint"}


def test_test_with_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`data\.evaluation_prompts`"):
        command("test", TINY, tmp_path, "--data.evaluation_prompts=null", "--data.evaluation_text=null")
