"""The table of what stands beside interval and p-value."""

from typing import Any

from sparc3_lightning.evaluation import Evaluation, Evaluator
from sparc3_lightning.evaluation.experiment import experiment_results
from sparc3_lightning.evaluation.run import Run
from sparc3_lightning.report.rows import agreement_lines, evidence_table
from tests.unit.evaluation.fake_run import make_evaluation, make_run

EVALUATOR = Evaluator(num_draws=200)


def results_of(run: Run) -> dict[str, Any]:
    return experiment_results(run, EVALUATOR, {})


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
