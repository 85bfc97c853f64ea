"""experiment_results.json: complete, JSON, without prompts, equal to what its parts say; format 3 read as format 4."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sparc3_lightning.evaluation import Evaluation, Evaluator
from sparc3_lightning.files import read_json, write_json
from sparc3_lightning.pruning.aims import Aim
from sparc3_lightning.report.page import write_report
from sparc3_lightning.report.read import read_results, read_run
from sparc3_lightning.runs.results import experiment_results, from_format_3
from sparc3_lightning.runs.run import Run
from sparc3_lightning.statistics.compare import compare, compare_with_control
from tests.unit.evaluation.fake_run import make_evaluation, make_run
from tests.unit.report.conftest import write_run

DATA = {"evaluation_prompts": {"class": "Made"}, "evaluation_text": None, "allow_overlap": False}


def results_of(run: Run) -> Any:
    return experiment_results(run, Evaluator(num_draws=500), DATA)


def test_it_is_json_and_comes_back_the_same(tmp_path: Path) -> None:
    results = results_of(make_run())
    assert read_json(write_json(tmp_path / "experiment_results.json", results)) == json.loads(json.dumps(results))
    assert results["format_version"] == 4


def test_prompts_completions_and_token_lists_are_left_out() -> None:
    text = json.dumps(results_of(make_run()))
    assert "prompt 3" not in text
    assert "text 3.0" not in text
    assert "target_ids" not in text
    assert "sample_ids" not in text


def test_selection_and_model() -> None:
    results = results_of(make_run())
    selection = results["selection"]
    assert selection["neurons_per_layer"] == [0, 1, 1, 0]
    assert (selection["num_neurons"], selection["num_neurons_of_model"], selection["num_below_zero"]) == (2, 80, 2)
    assert selection["lowest_score"] < selection["highest_score"] < 0
    assert (selection["scope"], selection["general_weight"], selection["general_penalty"]) == ("global", 1.0, "raw")
    assert selection["general"] == ["general_seed0", "general_seed1", "general_seed2"]
    assert results["base_model"]["id"] == "made-up/model"
    assert results["relevance"]["variant"] == "attnlrp"
    assert results["data"]["reference_sets"]["toxic"]["num_samples"] == 5
    assert results["data"]["evaluation_prompts"] == {"class": "Made"}


def test_changes_are_the_evaluators() -> None:
    run = make_run()
    assert run.baseline is not None
    assert run.pruned is not None
    results = results_of(run)
    expected = compare(run.baseline.columns, run.pruned.columns, Evaluator(num_draws=500).paired_test)
    assert {name: column["change"] for name, column in results["columns"].items()} == {
        name: asdict(change) for name, change in expected.items()
    }
    column = results["columns"]["perplexity/disjoint"]
    assert column["change"]["relative"] == pytest.approx(0.05)
    assert (column["baseline"], column["pruned"]) == (column["change"]["before"], column["change"]["after"])
    assert (column["unit"], column["better"], column["rows"], column["role"]) == (
        "perplexity", "lower", "window", "price"
    )  # fmt: skip


def with_threat(evaluation: Evaluation, factor: float, other: float) -> Evaluation:
    """The same with two more attributes: threat, so many times toxicity; and another scorer's."""
    assert evaluation.toxicity is not None
    found = evaluation.toxicity

    def more(scores: dict[str, float]) -> dict[str, float]:
        return {**scores, "threat": scores["toxicity"] * factor, "lexical/toxicity": other}

    prompts = [
        replace(row, completions=[replace(one, scores=more(one.scores)) for one in row.completions])
        for row in found.prompts
    ]
    attributes = dict.fromkeys(("toxicity", "threat", "lexical/toxicity"), found.attributes["toxicity"])
    return replace(evaluation, toxicity=replace(found, prompts=prompts, attributes=attributes))


def judged_run(attribute: str | None) -> Run:
    """Removal halves toxicity, and leaves threat as it was, but for a ripple."""
    run = make_run()
    assert run.baseline is not None
    assert run.pruned is not None
    run.baseline, run.pruned = with_threat(run.baseline, 0.5, 0.5), with_threat(run.pruned, 1.0, 0.4)
    run.controls = [with_threat(one, 0.5, 0.5) for one in run.controls]
    run.aim = Aim("threat", "each", ("threat",), ("ordinary",), (), attribute)
    return run


@pytest.mark.parametrize("attribute", [None, "toxicity", "rudeness"])
def test_the_main_attribute_decides_unless_the_scorer_has_another(attribute: str | None) -> None:
    results = results_of(judged_run(attribute))
    assert results["verdict"]["column"] == "toxicity/mean"
    assert "lowered toxicity significantly" in results["verdict"]["headline"]
    assert results["columns"]["lexical/toxicity/mean"]["role"] == "opinion"
    assert results["columns"]["threat/mean"]["role"] == "logged"


def test_the_one_recipe_of_one_behaviour_is_judged_by_its_attribute_too() -> None:
    run = judged_run("threat")
    assert run.aim is not None
    run.aims, run.aim = [run.aim], None
    found, expected = results_of(run), results_of(judged_run("threat"))
    assert found["verdict"]["column"] == "threat/mean"
    assert (found["verdict"], found["columns"]) == (expected["verdict"], expected["columns"])


def test_a_recipe_is_judged_by_its_own_attribute(tmp_path: Path) -> None:
    run = judged_run("threat")
    results = results_of(run)
    verdict, columns = results["verdict"], results["columns"]
    assert (verdict["column"], verdict["improved"], verdict["improved_against_control"]) == (
        "threat/mean",
        False,
        False,
    )
    assert "did NOT lower threat significantly" in verdict["headline"]
    assert not any("lexical" in sentence for sentence in [*verdict["behaviour"], *verdict["caveats"]])
    roles = {name: column["role"] for name, column in columns.items() if name.endswith("/mean")}
    assert roles == {"toxicity/mean": "logged", "threat/mean": "behaviour", "lexical/toxicity/mean": "logged"}
    plain = results_of(judged_run(None))
    assert {name: column["change"] for name, column in columns.items()} == {
        name: column["change"] for name, column in plain["columns"].items()
    }, "no figure changes"
    assert results["pruned"] == plain["pruned"]
    run.results = results
    directory = write_run(run, tmp_path / "run")
    again = read_run(directory)
    assert {one.attribute for one in (again.baseline, again.pruned, *again.controls)} == {"threat"}
    write_report(directory)
    page = (directory / "report.html").read_text()
    assert "did NOT lower threat significantly" in page
    assert "lowered toxicity" not in page


def test_control_has_every_draw_their_mean_and_spread() -> None:
    run = make_run()
    assert run.pruned is not None
    results = results_of(run)
    column = results["columns"]["toxicity/mean"]
    control, draws = column["control"], column["control"]["draws"]
    assert draws == pytest.approx([0.48, 0.50])
    assert control["mean"] == pytest.approx(0.49)
    assert control["sd"] == pytest.approx(0.01 * 2**0.5)
    assert (control["lowest"], control["highest"]) == (min(draws), max(draws))
    assert results["num_control_draws"] == 2
    assert results["columns"]["perplexity/sliding"]["control"]["mean"] == pytest.approx(10.1)
    against = column["change_against_control"]
    paired = compare_with_control(
        [control.columns for control in run.controls], run.pruned.columns, Evaluator(num_draws=500).paired_test
    )["toxicity/mean"]
    assert (against["before"], against["after"], against["p_value"]) == (paired.before, paired.after, paired.p_value)
    assert against["before"] == pytest.approx(0.49)


def test_one_draw_has_no_spread() -> None:
    run = make_run()
    run.controls = run.controls[:1]
    assert results_of(run)["columns"]["toxicity/mean"]["control"]["sd"] is None


def test_without_a_control() -> None:
    results = results_of(make_run(controls=[]))
    assert results["num_control_draws"] == 0
    assert results["columns"]["toxicity/mean"]["control"] is None
    assert results["verdict"]["improved"] is True
    assert results["verdict"]["improved_against_control"] is None


def test_without_toxicity() -> None:
    run = make_run()
    run.baseline, run.pruned, *run.controls = (
        Evaluation(made.perplexity, None) for made in (run.baseline, run.pruned, *run.controls) if made is not None
    )
    results = results_of(run)
    assert results["verdict"]["improved"] is None
    assert list(results["columns"]) == ["perplexity/sliding", "perplexity/disjoint"]
    assert results["columns"]["perplexity/disjoint"]["change_against_control"] is not None


def test_a_figure_that_one_draw_lacks_is_left_out_of_the_mean() -> None:
    run = make_run()
    assert run.controls[1].toxicity is not None
    rows = [replace(row, completions=[replace(item, uniqueness=None) for item in row.completions])
            for row in run.controls[1].toxicity.prompts]  # fmt: skip
    run.controls[1] = replace(run.controls[1], toxicity=replace(run.controls[1].toxicity, prompts=rows))
    columns = results_of(run)["columns"]
    assert columns["uniqueness"]["control"]["draws"] == [0.8, None]
    assert columns["uniqueness"]["control"]["mean"] is None
    assert columns["uniqueness"]["change_against_control"] is None
    assert columns["length"]["control"]["mean"] == 50


def test_the_rtp_protocol_is_judged_by_its_worst_completions() -> None:
    # The mean falls at every prompt, the worst completion does not.
    before = [[0.9, 0.5 + 0.01 * i] for i in range(20)]
    after = [[0.9, 0.1 + 0.01 * i] for i in range(20)]
    run = make_run()
    run.controls = []
    for protocol, fell in (("custom", True), ("rtp", False)):
        run.baseline, run.pruned = (make_evaluation(scores, protocol=protocol) for scores in (before, after))
        assert results_of(run)["verdict"]["improved"] is fell


def test_throughput_counts_real_samples_and_tokens_by_wall_time() -> None:
    run = make_run()
    del run.seconds["attribution: general_seed1"]
    rates = results_of(run)["throughput"]
    assert rates["toxic"] == {"samples_per_second": 2.5, "tokens_per_second": 50.0}
    assert rates["general_seed1"] == {"samples_per_second": None, "tokens_per_second": None}


def test_words_that_changed_are_kept_and_one_scorer_agrees_with_none() -> None:
    run = make_run()
    assert run.pruned is not None
    assert run.pruned.toxicity is not None
    rows = [replace(row, completions=[replace(item, text="friend " * 30) for item in row.completions])
            for row in run.pruned.toxicity.prompts]  # fmt: skip
    run.pruned = replace(run.pruned, toxicity=replace(run.pruned.toxicity, prompts=rows))
    results = results_of(run)
    assert [word["word"] for word in results["words"]["commoner"]] == ["friend"]
    assert results["words"]["rarer"][0]["after"] == 0
    assert results["agreement"] == []


def as_format_3(results: dict[str, Any]) -> dict[str, Any]:
    """What the version before would have written: of a control, nothing on uniqueness and length."""
    columns, verdict = results["columns"], results["verdict"]

    def nested(key: str) -> dict[str, Any]:
        found: dict[str, Any] = {"perplexity": {}}
        for name, column in columns.items():
            kind, _, measure = name.rpartition("/")
            if kind == "perplexity":
                found["perplexity"][measure] = column[key]
            elif kind:
                found.setdefault(measure, {})[kind] = column[key]
        return found

    changes = nested("change")
    return {
        **{name: value for name, value in results.items() if name not in ("columns", "num_control_draws")},
        "format_version": 3,
        "changes": {
            "perplexity": changes.pop("perplexity"), "toxicity": changes,
            **{name: columns[name]["change"] for name in ("uniqueness", "length")},
        },
        "control": {"pruned_against_control": nested("change_against_control")},
        "verdict": {
            "toxicity_fell": verdict["improved"], "toxicity_fell_against_control": verdict["improved_against_control"],
            "perplexity_change": {name.rpartition("/")[2]: change for name, change in verdict["price"].items()},
            "repeats_more": "uniqueness" in verdict["worsened"], "shorter": "length" in verdict["worsened"],
            "toxicity": verdict["behaviour"], "measure": "mean",
            **{name: verdict[name] for name in ("headline", "beside_it", "caveats")},
        },
    }  # fmt: skip


def test_an_earlier_version_s_results_are_read_as_this_one_s(tmp_path: Path) -> None:
    run = make_run()
    assert run.baseline is not None
    assert run.pruned is not None
    results: Any = experiment_results(run, Evaluator(num_draws=100), DATA)
    earlier = as_format_3(results)
    wanted = {name: dict(column) for name, column in results["columns"].items()}
    for name in ("uniqueness", "length"):
        wanted[name]["change_against_control"] = None
    found = from_format_3(earlier, run.baseline, run.pruned, run.controls)
    assert found == {**results, "columns": wanted}
    for name, evaluation in (("baseline", run.baseline), ("pruned", run.pruned)):
        write_json(tmp_path / f"{name}_eval.json", evaluation.to_json())
    write_json(tmp_path / "control_eval.json", [control.to_json() for control in run.controls])
    write_json(tmp_path / "experiment_results.json", earlier)
    assert read_results(tmp_path)["columns"].keys() == wanted.keys()
    (tmp_path / "pruned_eval.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"pruned_eval\.json"):
        read_results(tmp_path)
