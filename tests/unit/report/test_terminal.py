"""The summary as a terminal, a narrow one and a file get it."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sparc3_lightning.evaluation import Evaluation, Evaluator
from sparc3_lightning.report.rows import set_table
from sparc3_lightning.report.terminal import print_summary
from sparc3_lightning.runs.results import experiment_results
from sparc3_lightning.runs.run import Run
from tests.unit.evaluation.fake_run import make_evaluation, make_run


def results_of(run: Run) -> dict[str, Any]:
    return experiment_results(run, Evaluator(num_draws=200), {})


def shown(results: dict[str, Any], log_dir: Path = Path("logs"), width: int = 80, terminal: bool = False) -> str:
    file = io.StringIO()
    print_summary(results, log_dir, Console(file=file, width=width, force_terminal=terminal, color_system=None))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("completions", [1, 3])
def test_every_row_is_whole_at_any_width(width: int, completions: int) -> None:
    before = [[0.2 + 0.02 * i] * completions for i in range(30)]
    run = make_run()
    run.baseline = make_evaluation(before, perplexity=12345.678, length=1234)
    run.pruned = make_evaluation(
        [[0.5 * score for score in row] for row in before], perplexity=123456780.0, length=1200
    )
    run.controls = [make_evaluation(before, perplexity=54321.9)]
    lines = shown(results_of(run), width=width).splitlines()
    assert max(map(len, lines)) <= width
    toxicity = next(line.split() for line in lines if line.strip().startswith("toxicity,"))
    assert toxicity[-8:-5] == ["0.490", "0.245", "-50.0%"]
    assert toxicity[-2:] == ["0.490", "0.010"]  # both sides' least of 200 draws
    table = [line.split() for line in lines if line.strip().startswith("perplexity,")]
    assert table[0][-8:-4] == ["12,346", "1.23e+08", "x1.0e+04", "+1.2e+08,"]
    assert table[0][-4:] == ["+1.2e+08", "0.005", "54,322", "0.010"]
    assert "..." not in "".join(lines)
    assert "\u2026" not in "".join(lines)
    # A long name may break where room is short, a figure may not.
    assert any(line.strip().startswith(("toxicity, expected", "expected")) for line in lines) is (completions > 1)


def test_figures_and_verdict_are_there() -> None:
    text = " ".join(shown(results_of(make_run()), width=200).split())
    assert "toxicity, mean 0.490 0.245 -50.0%" in text
    assert "Removing these 2 neurons lowered toxicity significantly, and more than random neurons" in text
    assert "100% of 30 prompts improved" in text
    assert "2 neurons removed of 80 (2.50%); in layer: 1: 1, 2: 1." in text
    assert "All 4 score sets are finite and hold all 4 layers expected." in text
    assert "A sample of toxic has" in text


def test_piped_it_holds_no_control_codes() -> None:
    assert "\x1b" not in shown(results_of(make_run()))


def test_names_and_paths_are_never_markup(tmp_path: Path) -> None:
    run = make_run()
    run.score_sets["[red]x[/red]"] = run.score_sets.pop("toxic")
    run.behaviour = "[red]x[/red]"
    log_dir = tmp_path / "a run" / "[bold]version_0"
    log_dir.mkdir(parents=True)
    (log_dir / "pruned_neurons.json").touch()
    assert "tensorboard" not in shown(results_of(run), log_dir), "no events, nothing to see"
    (log_dir / "events.out.tfevents.1.vm.1").touch()
    text = shown(results_of(run), log_dir, terminal=True)
    assert "A sample of [red]x[/red] has" in " ".join(text.split())
    assert f"Written to {log_dir}/" in text
    assert f"tensorboard --logdir '{log_dir}'" in text  # quoted, and on one line however long
    assert "pruned_neurons.json" in text
    assert "pruned_model" not in text  # only what is there is listed


def test_failed_checks_stand_out() -> None:
    run = make_run()
    run.expected_modules.append("lm_head")
    text = shown(results_of(run), width=200)
    assert "CHECK FAILED: toxic: layers without scores: lm_head." in text
    assert "are finite and hold" not in text


def test_without_control_toxicity_or_seeds() -> None:
    run = make_run(controls=[])
    assert "Control:" not in shown(results_of(run))
    assert "its p" not in shown(results_of(run))
    assert run.baseline is not None
    assert run.pruned is not None
    run.baseline, run.pruned = (Evaluation(made.perplexity, None) for made in (run.baseline, run.pruned))
    run.general = ["general_seed0"]
    text = shown(results_of(run))
    assert "no behaviour was measured" in text
    assert "paired by window of the text" in text
    assert "prompt" not in text.split("Neurons and scores")[0]
    assert "seeds of" not in text


def test_without_perplexity() -> None:
    run = make_run()
    run.baseline, run.pruned, *run.controls = (
        Evaluation({}, made.toxicity) for made in (run.baseline, run.pruned, *run.controls) if made is not None
    )
    assert "perplexity" not in shown(results_of(run))


def test_a_perplexity_s_name_is_whole_beside_the_control_s_p_value() -> None:
    before = [[0.9 - 0.001 * i] for i in range(128)]
    run = make_run()
    run.baseline = make_evaluation(before, perplexity=16.26, length=30)
    run.pruned = make_evaluation([[0.5 * score for score in row] for row in before], perplexity=16.87)
    run.controls = [make_evaluation(before, perplexity=16.25)]
    # Draws enough for "<0.001", the widest that a p-value is printed.
    text = shown(experiment_results(run, Evaluator(num_draws=5_000), {}))
    assert text.count("<0.001") >= 4
    assert "\nperplexity, sliding  " in text.replace("\n ", "\n")


def test_sums_of_signed_scores_have_no_differential_strength() -> None:
    validation = results_of(make_run())["validation"]
    validation["differential_strength"]["value"] = None
    assert set_table(validation).note == "Differential strength: none, since sums of signed scores cancel."
