"""Runs that `test` has left, beside each other and beside others: each paired with the first."""

from pathlib import Path

import pytest
import yaml

from sparc3_lightning.evaluation import Evaluation
from sparc3_lightning.files import write_json
from sparc3_lightning.report.paired import evaluation_files, paired_columns
from sparc3_lightning.report.rows import Table
from sparc3_lightning.report.side_by_side import compare_runs, read_runs
from tests.unit.evaluation.fake_run import make_evaluation, make_run
from tests.unit.report.conftest import write_run
from tests.unit.report.trial_runs import write_sweep_dir

SCORES = [[0.2 + 0.02 * i] for i in range(30)]
HALVED = [[score / 2] for (score,) in SCORES]


def left_by_test(directory: Path, evaluation: Evaluation, name: str = "baseline") -> Path:
    directory.mkdir(parents=True)
    write_json(directory / f"{name}_eval.json", evaluation.to_json())
    return directory


def table_of(*runs: Path) -> Table:
    (table,) = [one for one in compare_runs(read_runs(runs)) if one.title == "Tested"]
    return table


def cells_of(table: Table) -> dict[tuple[str, ...], list[str]]:
    return {tuple(row[:2]): list(row[2:]) for row in table.rows}


def test_each_is_paired_with_the_first(tmp_path: Path) -> None:
    base = left_by_test(tmp_path / "base", make_evaluation(SCORES))
    removed = left_by_test(tmp_path / "removed", make_evaluation(HALVED, perplexity=12.0), "pruned")
    same = left_by_test(tmp_path / "same", make_evaluation(SCORES))
    table = table_of(base, removed, same)
    cells = cells_of(table)
    assert cells["toxicity, mean", "reference"] == ["0.490", "-", "-"]
    assert cells["toxicity, mean", "measured"] == ["-", "0.245", "0.490"]
    assert cells["toxicity, mean", "change"] == ["-", "-50.0%", "+0.0%"]
    assert cells["toxicity, mean", "p"] == ["-", "<0.001", "1.000"]
    low, high = map(float, cells["toxicity, mean", "95% interval"][1].split(", "))
    assert low < -0.245 < high < 0
    assert cells["toxicity, mean", "95% interval"][2] == "+0.000, +0.000"
    assert ("perplexity, sliding", "change") in cells
    assert "against the reference" in table.note


def test_a_run_that_pruned_is_its_baseline_s_other_side(tmp_path: Path) -> None:
    """The reference is what came before it removed neurons; a model tuned since stands beside it."""
    found = write_run(make_run(), tmp_path / "found")
    tuned = left_by_test(tmp_path / "tuned", make_evaluation(HALVED))
    cells = cells_of(table_of(found, tuned))
    assert cells["toxicity, mean", "reference"] == ["0.490", "-"]
    assert cells["toxicity, mean", "change"] == ["-50.0%", "-50.0%"]
    assert [path.name for path in evaluation_files(found)] == ["baseline_eval.json", "pruned_eval.json"]


def test_a_pair_that_a_run_has_told_of_is_told_alike(tmp_path: Path) -> None:
    """By the run's own number of draws, which its config names."""
    runs = [write_run(make_run(), tmp_path / name) for name in ("one", "two")]
    tuned = left_by_test(tmp_path / "tuned", make_evaluation(HALVED))

    def intervals() -> list[str]:
        tables = {table.title: cells_of(table) for table in compare_runs(read_runs([*runs, tuned]))}
        return [tables[title]["toxicity, mean", "95% interval"][0] for title in ("Measured", "Tested")]

    assert len(set(intervals())) == 2, "of 200 draws, and of as many as there are by default"
    statistics = {"num_draws": 200, "statistics_seed": 0, "confidence": 0.95}
    for run in runs:
        config = {"model": {"evaluator": {"class_path": "Evaluator", "init_args": statistics}}}
        (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert len(set(intervals())) == 1


def test_what_cannot_be_paired_is_shown_without_a_change(tmp_path: Path) -> None:
    base = left_by_test(tmp_path / "base", make_evaluation(SCORES))
    other = left_by_test(tmp_path / "other", make_evaluation(SCORES[:10]))
    table = table_of(base, other)
    assert cells_of(table)["toxicity, mean", "measured"] == ["-", "0.290"]
    assert ("toxicity, mean", "change") not in cells_of(table)
    assert str(other) in table.note
    assert "can be paired only with the same prompts" in table.note


def test_runs_that_were_compared_before_have_no_such_table(tmp_path: Path) -> None:
    runs = [write_run(make_run(), tmp_path / name) for name in ("one", "two")]
    for name in ("three", "four"):
        write_sweep_dir(tmp_path / name / "sweep")
        write_json(tmp_path / name / "baseline_eval.json", make_evaluation(SCORES).to_json())
    both = [runs, [tmp_path / "three", tmp_path / "four"]]
    assert "Tested" not in [table.title for pair in both for table in compare_runs(read_runs(pair))]


def test_what_is_no_evaluation_is_named(tmp_path: Path) -> None:
    base = left_by_test(tmp_path / "base", make_evaluation(SCORES))
    (tmp_path / "other").mkdir()
    write_json(tmp_path / "other" / "baseline_eval.json", {"toxicity": None})
    with pytest.raises(ValueError, match=r"other/baseline_eval\.json holds no evaluation"):
        paired_columns([evaluation_files(base), evaluation_files(tmp_path / "other")])
