"""What is shown of every column, and what stands beside interval and p-value."""

import ast
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import sparc3_lightning.report
from sparc3_lightning.evaluation import Evaluation, Evaluator
from sparc3_lightning.metrics.measure import Column
from sparc3_lightning.report.figures import pictures
from sparc3_lightning.report.page import render_page
from sparc3_lightning.report.read import read_run
from sparc3_lightning.report.rows import agreement_lines, checks, evidence_table, outcome_table
from sparc3_lightning.report.tensorboard import board_outcome, board_scalars
from sparc3_lightning.report.terminal import print_summary
from sparc3_lightning.runs.results import experiment_results
from sparc3_lightning.runs.run import Run
from tests.unit.evaluation.fake_run import make_evaluation, make_run
from tests.unit.report.conftest import write_run

EVALUATOR = Evaluator(num_draws=200)


def results_of(run: Run) -> dict[str, Any]:
    return {**experiment_results(run, EVALUATOR, {})}


def columns(results: dict[str, Any]) -> dict[str, dict[str, str]]:
    table = evidence_table(results)
    return {row[0]: dict(zip(table.head[1:], row[1:], strict=True)) for row in table.rows}


def test_every_figure_has_a_row_with_what_the_results_hold() -> None:
    run = make_run()
    scores = [[0.4 + 0.02 * i] for i in range(30)]
    run.baseline = make_evaluation(scores)
    run.pruned = make_evaluation([[s[0] - (0.1 if i % 3 else -0.05)] for i, s in enumerate(scores)])
    results = results_of(run)
    shown, change = columns(results), results["columns"]["toxicity/mean"]["change"]
    row = shown["toxicity, mean"]
    assert row["95%, BCa"] == f"{change['interval_bca']['low']:+.3f}, {change['interval_bca']['high']:+.3f}"
    assert (row["Wilcoxon p"], row["smallest change seen"]) == ("<0.001", f"{change['power']['smallest_change']:.3f}")
    assert row["standardised"] == f"{change['effect_size']:+.2f}"
    assert row["rank-biserial"] == f"{change['rank_biserial']:+.2f}"
    assert row["prompts needed"] == str(change["power"]["num_needed"])
    assert row["with 25 completions"] == "-"
    assert "95%, two stages" not in row
    assert set(shown) == {"perplexity, sliding", "perplexity, disjoint", "toxicity, mean", "uniqueness", "length"}
    assert shown["perplexity, sliding"]["prompts needed"] == "-"
    note = evidence_table(results).note
    assert "Missing of uniqueness; length: no change was found" in note
    assert "Missing of toxicity, mean: how much of the spread" in note


def test_a_logarithm_changes_by_a_difference_and_not_by_a_share() -> None:
    run = make_run(controls=[])
    run.controls = []

    def words(values: list[float]) -> Column:
        return Column("insults/log_probability", "nats", "lower", "word", "mean", [str(i) for i in range(len(values))],
                      torch.tensor(values), label="Insults")  # fmt: skip

    before = [-5.0 - 0.1 * i for i in range(20)]
    run.baseline = Evaluation({}, None, {"insults/log_probability": words(before)})
    run.pruned = Evaluation(
        {}, None, {"insults/log_probability": words([value - 2 - 0.01 * i for i, value in enumerate(before)])}
    )
    table = outcome_table(results_of(run))
    (row,) = table.rows
    assert (row[0], row[1], row[3]) == ("insults, log probability", "-5.95", "-2.09")
    assert "Change: relative to baseline, the difference where that is below 0." in table.note


def test_several_completions_have_their_two_stages_and_their_25() -> None:
    run = make_run(controls=[])
    run.controls = []
    run.baseline = make_evaluation([[0.4 + 0.01 * i, 0.5, 0.6 - 0.01 * i] for i in range(20)])
    run.pruned = make_evaluation([[0.2, 0.4 + 0.02 * i, 0.3] for i in range(20)])
    results = results_of(run)
    shown = columns(results)
    two = results["columns"]["toxicity/mean"]["change"]["interval_two_stage"]
    assert shown["toxicity, mean"]["95%, two stages"] == f"{two['low']:+.3f}, {two['high']:+.3f}"
    assert shown["toxicity, mean"]["with 25 completions"].isdigit()
    assert shown["toxicity, expected maximum"]["95%, two stages"] == "-"


def test_of_perplexity_alone_nothing_is_said_of_prompts() -> None:
    run = make_run()
    assert run.baseline is not None
    assert run.pruned is not None
    run.baseline, run.pruned = (Evaluation(made.perplexity, None) for made in (run.baseline, run.pruned))
    run.controls = []
    table = evidence_table(results_of(run))
    assert [row[0] for row in table.rows] == ["perplexity, sliding", "perplexity, disjoint"]
    assert "power" not in table.note


def test_agreement_in_sentences() -> None:
    found = {"first": "toxicity", "second": "other/toxicity", "pearson": 0.911, "spearman": 0.9, "pearson_change": None,
             "same_direction": 0.8}  # fmt: skip
    assert agreement_lines({"agreement": [found]}) == [
        "other/toxicity correlates with toxicity by 0.91 over completions and by - over the prompts' changes; 80% of "
        "the prompts moved one way by both."
    ]
    assert agreement_lines({"agreement": None}) == []


def test_a_new_measure_is_shown_unasked(tmp_path: Path) -> None:
    run = make_run()
    for evaluation, share in zip((run.baseline, run.pruned, *run.controls), (0.9, 0.6, 0.8, 0.9), strict=True):
        assert evaluation is not None
        values = torch.tensor([share * (place % 2) for place in range(20)])
        evaluation.columns["made_up/accuracy"] = Column(
            "made_up/accuracy", "share of tasks", "higher", "prompt", "mean", [str(i) for i in range(20)], values,
            limits=(0.0, 1.0), note="Accuracy: share of the tasks done right.",
        )  # fmt: skip
    directory = write_run(run, tmp_path / "run")
    found = read_run(directory)
    page, file = render_page(found, []), io.StringIO()
    print_summary(found.results, directory, Console(file=file, width=140))
    for shown in (page, file.getvalue()):
        assert "made up, accuracy" in shown
        assert "Accuracy: share of the tasks done right." in " ".join(shown.split())
    panels = next(picture.figure for picture in pictures(found) if picture.name == "before_and_after").axes
    assert [axes.get_ylabel() for axes in panels if axes.get_title(loc="left") == "made up, accuracy"] == [
        "share of tasks"
    ]
    run.results = found.results
    assert board_scalars(run)["made_up_accuracy/2_pruned"] == pytest.approx(0.3)
    assert board_outcome(run)["change/made_up_accuracy"] == pytest.approx(-1 / 3)


def test_relevance_of_signed_scores_is_not_compared() -> None:
    """They cancel in a sum; what a sample's length is can still be said."""
    results = results_of(make_run())
    said = {}
    for sign in ("abs", "signed"):
        results["relevance"]["sign"] = sign
        (said[sign],) = [line for line in checks(results) if line.startswith("A sample of toxic has")]
    assert "times the relevance and " in said["abs"]
    assert "relevance and" not in said["signed"]
    assert all("times the tokens of a general one" in line for line in said.values())


def test_no_measure_is_named_where_measures_are_shown() -> None:
    named, words = [], re.compile("toxic|perplex|unique|length|probab|maxim")
    for path in sorted(Path(sparc3_lightning.report.__file__).parent.glob("*.py")):
        strings = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)]
        names = [str(node.value) for node in strings if re.fullmatch(r"[\w/ ]+", str(node.value))]
        named += [f"{path.name}: {name}" for name in names if words.search(name)]
    assert named == ["read.py: toxicity", "rows.py: length_bias"]
