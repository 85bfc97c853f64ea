"""What goes to TensorBoard: right values under readable tags, and text that stays text."""

import html
import re

import pytest
import torch
from tensorboard.plugin_util import markdown_to_safe_html

from sparc3_lightning.evaluation import Evaluator
from sparc3_lightning.report.tensorboard import (
    board_hyperparameters,
    board_outcome,
    board_scalars,
    plain_text,
    sample_completions,
    score_histograms,
    verdict_text,
)
from sparc3_lightning.runs.results import experiment_results
from sparc3_lightning.runs.run import Run
from tests.unit.evaluation.fake_run import LAYERS, make_evaluation, make_run, module

NASTY = [
    "<script>alert('x')</script>",
    "a | b | c",
    "**bold** _it_ `code` ~~gone~~ # head",
    "[link](http://example.org) ![image](x.png) http://example.org",
    "&lt;b&gt; &#60; \\| \\*",
    "line one\nline two\n\n- list\n1. item",
    "<!-- hidden --> <b>bold</b> <img src=x onerror=alert(1)>",
    "na\u00efve \U0001f600 \x1b[31m",
]


@pytest.fixture
def run() -> Run:
    run = make_run()
    run.results = experiment_results(run, Evaluator(num_draws=200), {})
    return run


@pytest.mark.parametrize("text", NASTY)
def test_model_output_stays_text(text: str) -> None:
    scores = [[0.5]]
    before, after = make_evaluation(scores, texts=[text]), make_evaluation(scores, texts=["fine"])
    page = markdown_to_safe_html(sample_completions(before, after, 1))
    body = page[page.index("<tbody>") :]
    cells = re.findall(r"<td>(.*?)</td>", body, re.DOTALL)
    assert len(cells) == 3
    seen = re.sub(r"^<strong>0\.500</strong> ", "", cells[1])
    assert re.findall(r"<(?!/?strong>)[a-z!]", body.replace(cells[1], "")) == ["<t"] * body.count("<t")
    assert "<" not in seen
    assert html.unescape(seen) == " ".join(text.split()).replace("\x1b", "")


def test_a_verdict_stays_text() -> None:
    said = {"headline": "<b>*x*</b>", "behaviour": ["a | b"], "beside_it": ["_c_"], "caveats": []}
    page = markdown_to_safe_html(verdict_text(said))
    assert page.count("<li>") == 2
    assert "<b>" not in page
    assert html.unescape(re.sub("<[^>]*>", "", page)).split() == ["<b>*x*</b>", "a", "|", "b", "_c_"]


def test_prompts_are_spaced_over_all_not_chosen() -> None:
    evaluation = make_evaluation([[0.1 * i] for i in range(10)])
    rows = sample_completions(evaluation, evaluation, 5).splitlines()[4:]
    assert [re.findall(r"prompt (\d)", row)[0] for row in rows] == ["0", "2", "4", "6", "8"]
    assert len(sample_completions(evaluation, evaluation, 99).splitlines()) == 4 + 10
    assert sample_completions(evaluation, evaluation, 0) == ""


def test_an_empty_completion_is_named() -> None:
    evaluation = make_evaluation([[0.1]], texts=["  "])
    assert "(empty)" in sample_completions(evaluation, evaluation, 1)


def test_plain_text_leaves_words_alone() -> None:
    assert plain_text("two  words\n3") == "two words 3"


def test_histograms_show_every_set_layer_by_layer(run: Run) -> None:
    run.score_sets["toxic"].scores[module(1)][0] = 0.0
    made = {(histogram.tag, histogram.layer): histogram for histogram in score_histograms(run)}
    assert {tag for tag, _ in made} == {
        *(f"scores_log10_step_is_layer/{name}" for name in run.score_sets),
        "scores_step_is_layer/differential",
    }
    assert {layer for _, layer in made} == set(range(LAYERS))
    values = made["scores_log10_step_is_layer/toxic", 1].values
    assert len(values) == 19  # the zero has no logarithm
    expected = run.score_sets["toxic"].scores[module(1)][1:].double().log10()
    assert torch.equal(values, expected)
    assert run.differential is not None
    assert made["scores_step_is_layer/differential", 2].values.min() < 0


def test_scalars_stand_side_by_side(run: Run) -> None:
    scalars = board_scalars(run)
    sides = [scalars[f"toxicity_mean/{side}"] for side in ("1_baseline", "2_pruned", "3_control_mean")]
    assert sides == pytest.approx([0.49, 0.245, 0.49])
    assert scalars["perplexity_disjoint/2_pruned"] == 10.5
    assert scalars["attribution_tokens_per_second/toxic"] == 50
    assert not any("expected_maximum" in name for name in scalars)  # it is the mean with one completion


def test_attribution_alone_shows_its_speed() -> None:
    run = make_run()
    run.baseline = run.pruned = run.recipe = None
    run.controls = []
    assert all(name.startswith("attribution_") for name in board_scalars(run))
    assert board_hyperparameters(run) == board_outcome(run) == {}


def test_hyperparameters_and_outcome(run: Run) -> None:
    chosen = board_hyperparameters(run)
    assert chosen["num_neurons"] == 2
    assert (chosen["model"], chosen["sign"], chosen["scope"]) == ("made-up/model", "abs", "global")
    outcome = board_outcome(run)
    assert outcome["change/toxicity_mean"] == pytest.approx(-0.5)
    assert outcome["change/perplexity_sliding"] == pytest.approx(0.05)
    assert 0 < outcome["p_against_control/toxicity_mean"] < 0.05
