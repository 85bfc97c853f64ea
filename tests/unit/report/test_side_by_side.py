"""Runs side by side: the figures of each in its column, and what differs in their configs."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from sparc3_lightning.files import write_json
from sparc3_lightning.main import main
from sparc3_lightning.report.behaviour_tables import overlap_table
from sparc3_lightning.report.circuit_figures import write_circuit
from sparc3_lightning.report.rows import Table
from sparc3_lightning.report.side_by_side import (
    ComparedRun,
    compare_runs,
    config_table,
    fitted,
    flat_config,
    read_runs,
    short_paths,
)
from sparc3_lightning.report.terminal import print_rows
from sparc3_lightning.trials.table import write_table
from tests.unit.evaluation.fake_run import make_behaviours_run, make_evaluation, make_run
from tests.unit.report.conftest import write_behaviours_dir, write_run
from tests.unit.report.trial_runs import compression_rows, write_compression_dir, write_sweep_dir

SCORES = [[0.2 + 0.02 * i] for i in range(30)]


def config(num_neurons: int, *more: dict[str, Any]) -> dict[str, Any]:
    pruning = {"class_path": "callbacks.PruningCallback", "init_args": {"num_neurons": num_neurons, "scope": "global"}}
    return {"seed_everything": 0, "trainer": {"callbacks": [*more, pruning]}, "model": {"dtype": None}}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two suppressions: the second halves toxicity no more, and takes 4 neurons by another config."""
    first, second = make_run(), make_run()
    second.pruned = make_evaluation(SCORES)
    found = [write_run(run, tmp_path / "logs" / f"version_{place}") for place, run in enumerate((first, second))]
    for directory, content in zip(found, (config(2), config(4)), strict=True):
        (directory / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return found


def rows_of(table: Table) -> dict[tuple[str, ...], list[str]]:
    return {tuple(row[: table.num_names]): list(row[table.num_names :]) for row in table.rows}


def tables_of(paths: list[Path]) -> dict[str, dict[tuple[str, ...], list[str]]]:
    return {table.title: rows_of(table) for table in compare_runs(read_runs(paths))}


def test_every_measure_has_its_figures(runs: list[Path]) -> None:
    tables = tables_of(runs)
    assert list(tables) == ["Measured", "Selection", "What differs in their configs"]
    measured = tables["Measured"]
    assert measured["toxicity, mean", "baseline"] == ["0.490", "0.490"]
    assert measured["toxicity, mean", "pruned"] == ["0.245", "0.490"]
    assert measured["toxicity, mean", "change"] == ["-50.0%", "+0.0%"]
    assert measured["toxicity, mean", "p"][1] == "1.000"
    assert measured["toxicity, mean", "95% interval"][1] == "+0.000, +0.000"
    assert set(measured["toxicity, mean", "control"]) == {"0.490"}
    assert tables["Selection"]["num neurons",] == ["2", "2"]
    assert tables["Selection"]["sign",] == ["abs", "abs"]
    assert tables["What differs in their configs"] == {
        ("trainer.callbacks.PruningCallback.init_args.num_neurons",): ["2", "4"]
    }


def test_a_sweep_s_leaders_and_a_compression_s_prices(tmp_path: Path, runs: list[Path]) -> None:
    for name in ("one", "two"):
        write_sweep_dir(tmp_path / name / "sweep")
        write_compression_dir(tmp_path / name / "compression")
    tables = tables_of([tmp_path / "one", tmp_path / "two", runs[0]])
    assert list(tables) == ["Sweep: what leads at a price", "Compression", "What differs in their configs"]
    sweep, compression = tables["Sweep: what leads at a price"], tables["Compression"]
    assert sweep["+1%", "selection"] == ["lrp, k 4, global", "lrp, k 4, global", "-"]
    assert sweep["+1%", "insult"] == ["-15.0%", "-15.0%", "-"]
    assert sweep["+1%", "perplexity (sliding)"] == ["+1.0%", "+1.0%", "-"]
    assert compression["perplexity (disjoint)", "lrp_signed, 50%"] == ["9.50", "9.50", "-"]
    assert compression["perplexity (disjoint)", "baseline"] == ["10.00", "10.00", "-"]


def test_circuits_areas_stand_side_by_side(tmp_path: Path) -> None:
    for name, cpr in (("one", 0.5), ("two", 0.75)):
        areas = [{"task": "ioi", "method": "lrp", "ablation": "mean", "asked": "held_out", "num_draws": 2, "cpr": cpr,
                  "cmd": 0.25, "accuracy_area": 0.9}]  # fmt: skip
        whole = {"task": "ioi", "draw": "ioi_seed0", "method": "all", "ablation": "mean", "share": 1.0,
                 "asked": "held_out", "accuracy": 1.0, "logit_difference": 4.0, "faithfulness": 1.0,
                 "error": None}  # fmt: skip
        write_circuit([whole], areas, [], [], tmp_path / name / "circuit")
    tables = tables_of([tmp_path / "one", tmp_path / "two"])
    assert tables["Circuits: CPR / CMD"]["held-out samples, mean", "lrp"] == ["0.50 / 0.25", "0.75 / 0.25"]
    assert tables["Circuits: area under accuracy"]["held-out samples, mean", "lrp"] == ["0.90", "0.90"]
    write_circuit([whole, {**whole, "task": "own", "draw": "own"}], [*areas, {**areas[0], "task": "own", "cpr": 0.1}],
                  [], [], tmp_path / "two" / "circuit")  # fmt: skip
    ends = [{"task": "ioi", "draw": "ioi_seed0", "ablation": "mean", "asked": "held_out", "low": -0.5,
             "confidence": 0.95}]  # fmt: skip
    write_json(tmp_path / "one" / "circuit" / "circuit.json", {"options": {"granularity": "neuron"}})
    write_json(tmp_path / "two" / "circuit" / "circuit.json", {"options": {"granularity": "weight"}, "ends": ends})
    notes = {table.title: table.note for table in compare_runs(read_runs([tmp_path / "one", tmp_path / "two"]))}
    kept = f"{tmp_path.name}/one: circuits of neurons. {tmp_path.name}/two: circuits of weights."
    assert notes["Circuits: area under accuracy"] == kept
    assert notes["Circuits: CPR / CMD"].startswith(f"{kept} {tmp_path.name}/two: Asked held-out samples: Faithfulness")
    several = tables_of([tmp_path / "one", tmp_path / "two"])["Circuits: CPR / CMD"]
    assert several["held-out samples of ioi, mean", "lrp"] == ["0.50 / 0.25", "0.75 / 0.25"]
    assert several["held-out samples of own, mean", "lrp"] == ["-", "0.10 / 0.25"]


def test_overlaps_stand_side_by_side_where_a_run_has_nothing_else(tmp_path: Path) -> None:
    one, two = (write_behaviours_dir(tmp_path / name) for name in ("one", "two"))
    table = next(iter(compare_runs(read_runs([one, two]))))
    assert (table.title, table.num_names) == ("Do the behaviours agree?", 2)
    wanted = overlap_table(make_behaviours_run().comparison)
    for row in wanted.rows:
        cells = dict(zip(wanted.head, row, strict=True))
        for figure in ("shared", "by chance", "p (Holm)", "correlation", "shared texts"):
            pair = f"toxic, insult (neurons: {cells['neurons']})"
            assert rows_of(table)[pair, figure] == [cells[figure]] * 2
    assert table.note == wanted.note
    evaluated = write_run(make_behaviours_run(), tmp_path / "evaluated")
    beside = tables_of([one, evaluated])
    assert list(beside) == ["Do the behaviours agree?", "What differs in their configs"]
    assert beside["Do the behaviours agree?"] == rows_of(table)
    again = write_run(make_behaviours_run(), tmp_path / "again")
    assert "Do the behaviours agree?" not in tables_of([evaluated, again]), "as ever: their tables are of measures"


def test_what_only_a_later_run_has_stands_with_its_like(tmp_path: Path) -> None:
    price = "perplexity_other"
    for name, methods in (("one", ("wanda",)), ("two", ("lrp_signed", "wanda"))):
        rows = [{**row, price: 1.0, f"{price}_relative_low": 0.0} for row in compression_rows(methods)]
        write_table(rows, tmp_path / name / "compression")
    names = list(tables_of([tmp_path / "one", tmp_path / "two"])["Compression"])
    assert names == [
        (price, model) for price in ("perplexity (disjoint)", "perplexity (other)")
        for model in ("baseline", "wanda, 50%", "lrp_signed, 50%")
    ]  # fmt: skip


def test_runs_of_different_kinds_say_so(tmp_path: Path, runs: list[Path]) -> None:
    write_sweep_dir(tmp_path / "one" / "sweep")
    (table,) = compare_runs(read_runs([tmp_path / "one", runs[0]]))
    assert table.note == "No config.yaml: logs/one. No two of these runs have measured the same kind of thing.".replace(
        "logs", tmp_path.name
    )


def test_a_config_s_lists_go_by_class() -> None:
    other = {"class_path": "callbacks.Other"}
    flat = dict(flat_config(config(4, other, other)))
    assert flat["trainer.callbacks.Other.class_path"] == "callbacks.Other"
    assert flat["trainer.callbacks.Other.1.class_path"] == "callbacks.Other"
    assert flat["trainer.callbacks.PruningCallback.init_args.num_neurons"] == "4"
    assert flat["model.dtype"] == "null"
    assert dict(flat_config({"a": {"grids": [{"k": [1, 2]}], "empty": {}}})) == {
        "a.grids.0.k": "[1, 2]",
        "a.empty": "{}",
    }


def test_no_secret_is_shown() -> None:
    given = {
        "token": "x1",
        "init_args": {"api_key": "x2", "hf": {"password": "x3"}, "max_new_tokens": 8},
        "secret": None,
    }
    flat = dict(flat_config({"logger": given}))
    assert not [value for value in flat.values() if value.startswith("x")]
    assert flat["logger.init_args.max_new_tokens"] == "8"
    assert flat["logger.secret"] == "null"


def compared(*configs: dict[str, Any]) -> dict[tuple[str, ...], list[str]]:
    made = [ComparedRun(str(place), None, {}, dict(flat_config(one))) for place, one in enumerate(configs)]
    return rows_of(config_table(made))


def test_of_a_class_that_one_run_lacks_only_the_name_is_shown() -> None:
    sweep = {"class_path": "callbacks.SweepCallback", "init_args": {"seed": 0, "grids": [{"methods": ["lrp"]}]}}
    assert compared(config(4), config(4, sweep)) == {
        ("trainer.callbacks.SweepCallback.class_path",): ["-", "callbacks.SweepCallback"]
    }
    assert compared(config(4, sweep), config(4, sweep)) == {}


def as_fitted(width: int, *configs: dict[str, Any]) -> str:
    names = [f"logs/a_rather_long_name_of_run_{place}" for place, _ in enumerate(configs)]
    made = [ComparedRun(name, None, {}, dict(flat_config(one))) for name, one in zip(names, configs, strict=True)]
    file = io.StringIO()
    print_rows(fitted(config_table(made), width), Console(file=file, width=width, markup=False))
    return file.getvalue()


def test_a_terminal_shows_long_values_by_their_ends_and_a_file_all_of_them() -> None:
    long = "a" * 30 + "b" * 30
    assert compared({"x": long}, {"x": "short"}) == {("x",): [long, "short"]}
    shown = as_fitted(200, {"x": long}, {"x": "short"})
    assert ["x", "a" * 18 + "..." + "b" * 18, "short"] in [line.split() for line in shown.splitlines()]


def test_what_differs_is_shown_whole_where_the_ends_would_hide_it() -> None:
    long, other = "j" * 30 + "q" * 30, "j" * 30 + "z" + "q" * 30
    shown = as_fitted(60, {"x": long}, {"x": other})
    assert "..." not in shown
    assert [shown.count(sign) for sign in "jqz"] == [60, 60, 1]
    assert max(map(len, shown.splitlines())) <= 60


@pytest.mark.parametrize("width", [60, 80, 120])
def test_what_differs_fits_a_terminal_and_no_key_is_cut(width: int) -> None:
    def of_class(**options: Any) -> dict[str, Any]:
        return {"class_path": "a.Class", "init_args": options}

    configs = [
        {"model": {"evaluator": of_class(scorer=of_class(words=[name * 8] * 30))},
         "data": {"evaluation_prompts": of_class(path=f"/{name * 40}/prompts.jsonl", part=name)}}
        for name in ("one", "two")
    ]  # fmt: skip
    lines = as_fitted(width, *configs).splitlines()
    assert max(map(len, lines)) <= width
    assert any("..." in line for line in lines)
    keys = "".join(line.split()[0] for line in lines if line.strip())
    for key in ("model.evaluator.init_args.scorer.init_args.words", "data.evaluation_prompts.init_args.path"):
        assert key in keys


def test_columns_are_called_by_what_tells_them_apart(tmp_path: Path) -> None:
    assert short_paths([tmp_path / "a/v0", tmp_path / "a/v1"]) == ["a/v0", "a/v1"]
    assert short_paths([tmp_path / "x/a/v0", tmp_path / "y/a/v0"]) == ["x/a/v0", "y/a/v0"]


@pytest.mark.parametrize("width", [60, 100])
def test_no_figure_and_no_word_of_a_name_is_cut(runs: list[Path], width: int) -> None:
    file = io.StringIO()
    for table in compare_runs(read_runs(runs)):
        print_rows(table, Console(file=file, width=width, markup=False))
    lines = [line.split() for line in file.getvalue().splitlines()]
    assert ["trainer.callbacks.PruningCallback.init_args.num_neurons", "2", "4"] in lines
    assert ["pruned", "0.245", "0.490"] in lines
    assert ["version_0", "version_1"] in [line[-2:] for line in lines]
    assert "\u2026" not in file.getvalue()


def test_the_command_prints_and_writes(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("c.csv", "c.json"):
        main(["compare", *map(str, runs), "--output", str(tmp_path / name)])
        assert f"tables: {tmp_path / name}" in capsys.readouterr().out
    written = list(csv.reader((tmp_path / "c.csv").open(encoding="utf-8", newline="")))
    assert written[0] == ["table", "row", "figure", "logs/version_0", "logs/version_1"]
    assert ["Measured", "toxicity, mean", "change", "-50.0%", "+0.0%"] in written
    assert ["Selection", "num neurons", "", "2", "2"] in written
    tables = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert [table["title"] for table in tables] == ["Measured", "Selection", "What differs in their configs"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["a"], "`RUN` must name at least two runs, each once, got a"),
        (["a", "a"], "`RUN` must name at least two runs, each once, got a, a"),
        (["a", "b"], "no run directory at a"),
        (["a", "b", "--output", "c.txt"], r"`--output` must end with \.csv or \.json, got c\.txt"),
    ],
)
def test_refused(args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        main(["compare", *args])
