"""Circuits' tables and figures: means over the draws, the best marked, where what stays lies, who agrees."""

from pathlib import Path
from typing import Any

import pytest

from sparc3_lightning.files import write_json
from sparc3_lightning.report.circuit_figures import curves_figure, method_styles, write_circuit
from sparc3_lightning.report.circuit_tables import cautions, circuit_details, circuit_lines, circuit_tables
from sparc3_lightning.report.page import write_report
from sparc3_lightning.report.sections import read_experiment
from sparc3_lightning.trials import EMPTY, HELD_OUT, IN_SAMPLE, WHOLE
from sparc3_lightning.trials.circuit_areas import area_rows

DRAWS = {"first": 0.0, "second": 0.2}


def rows(task: str = "who") -> list[dict[str, Any]]:
    found = []
    for draw, more in DRAWS.items():
        for asked, scale in ((IN_SAMPLE, 1.0), (HELD_OUT, 0.5)):
            for method, share, faithful in (
                (WHOLE, 1.0, 1.0), (EMPTY, 0.0, 0.0),
                ("lrp", 0.1, 0.6 * scale + more), ("lrp", 1.0, 1.0), ("random", 0.1, 0.1 * scale), ("random", 1.0, 1.0),
            ):  # fmt: skip
                found.append({
                    "task": task, "draw": draw, "method": method, "ablation": "mean", "share": share, "asked": asked,
                    "accuracy": 0.5 + 0.5 * faithful, "logit_difference": 4 * faithful, "faithfulness": faithful,
                    "error": None,
                })  # fmt: skip
    return found


PARTS = [
    {"task": "who", "draw": "first", "method": "lrp", "layer": layer, "kind": kind, "num_kept": num, "num": 10}
    for layer in range(12)
    for kind, num in (("up", 1 if layer < 2 else 0), ("down", 5 if layer == 11 else 0))
]
OVERLAPS = [
    {"what": "draws", "task": "who", "other_task": "who", "of": "lrp", "first": "first", "second": "second",
     "num_shared": 6, "jaccard": 0.5, "expected": 1.5, "p_value": 0.0001},
    {"what": "methods", "task": "who", "other_task": "who", "of": "first", "first": "lrp", "second": "random",
     "num_shared": 2, "jaccard": 0.1, "expected": 1.5, "p_value": 0.4},
]  # fmt: skip


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_circuit(rows(), area_rows(rows()), PARTS, OVERLAPS, tmp_path / "circuit")
    return tmp_path


def test_tables_say_what_the_rows_do(written: Path) -> None:
    data = read_experiment("circuit", written / "circuit")
    assert circuit_lines(data) == [
        "Asked its own samples: logit difference +4.00 (100% right) of the whole model; of the empty circuit, mean "
        "+0.00 (50% right).",
        "Asked held-out samples: logit difference +4.00 (100% right) of the whole model; of the empty circuit, mean "
        "+0.00 (50% right).",
    ]
    own, held_out, accuracy, by_layer, by_kind, draws = circuit_tables(data)
    # From 0.7 (the mean of two draws) to 1 over 0.9 of the axis.
    assert [list(row) for row in own.rows] == [["lrp", "0.77", "0.14"], ["random", "0.50", "0.41"]]
    assert own.strong == {(0, 1), (0, 2)}
    # From 0.85 to 1, and from 0.7; of random circuits from 0.55 and 0.525.
    assert (accuracy.title, list(accuracy.head)) == ("Area under accuracy", ["", "mean own", "mean held-out"])
    assert [list(row) for row in accuracy.rows] == [["lrp", "0.83", "0.76"], ["random", "0.70", "0.69"]]
    assert accuracy.strong == {(0, 1), (0, 2)}
    assert held_out.rows[0][1] == f"{0.9 * (0.4 + 1) / 2:.2f}"
    assert list(by_layer.head) == ["", "0-1", "2-3", "4-5", "6-7", "8-9", "10-11"]
    assert list(by_layer.rows[0]) == ["lrp", "5.0%", "0.0%", "0.0%", "0.0%", "0.0%", "12.5%"]
    assert (list(by_kind.head), list(by_kind.rows[0])) == (["", "up", "down"], ["lrp", "1.7%", "4.2%"])
    assert [list(row) for row in draws.rows] == [["lrp", "0.50", "6.0", "1.5"]]
    curve, _, methods = circuit_details(data)
    assert [list(row) for row in curve.rows] == [["lrp", "0.70 (85%)"], ["random", "0.10 (55%)"]]
    assert list(methods.rows[0][:3]) == ["lrp", "random", "0.10"]


def test_a_question_without_areas_has_no_column(tmp_path: Path) -> None:
    """One ablation's empty circuit has failed on held-out samples."""
    more = [{**row, "ablation": "zero"} for row in rows()]
    broken = [{**row, "faithfulness": None} if row["asked"] == HELD_OUT else row for row in more]
    write_circuit([*rows(), *broken], area_rows([*rows(), *broken]), PARTS, OVERLAPS, tmp_path / "circuit")
    shown = {one.title: one for one in circuit_tables(read_experiment("circuit", tmp_path / "circuit"))}
    assert list(shown["Area under accuracy"].head) == ["", "mean own", "mean held-out", "zero own"]
    assert list(shown["Areas, asked held-out samples"].head) == ["", "CPR mean", "CMD mean"]


def test_notes_say_what_was_asked_and_of_how_many_draws(tmp_path: Path) -> None:
    """Nothing is held out, and LRP has lost a curve of two."""
    found = [row for row in rows() if row["asked"] == IN_SAMPLE]
    found[2]["faithfulness"] = None
    write_circuit(found, area_rows(found), PARTS, OVERLAPS, tmp_path / "circuit")
    shown = {one.title: one.note for one in circuit_tables(read_experiment("circuit", tmp_path / "circuit"))}
    of_draws = "Means of 2 draws of samples (of fewer where a circuit has failed: lrp); least and largest: areas.csv."
    assert shown["Area under accuracy"] == f"Asked own samples; accuracy as it is, higher is better. {of_draws}"
    assert shown["Areas, asked its own samples"].endswith(of_draws)


def test_tasks_whose_draws_come_in_turns_are_one_pair(tmp_path: Path) -> None:
    """Draws are listed as who0, what0, who1: the second pair of them names the other task first."""
    overlaps = [between("who", "what", ("who0", "what0"), 0.2), between("who", "who", ("who0", "who1"), 0.5),
                between("what", "who", ("what0", "who1"), 0.4)]  # fmt: skip
    write_circuit(rows(), area_rows(rows()), PARTS, overlaps, tmp_path / "circuit")
    shown = {one.title: one for one in circuit_tables(read_experiment("circuit", tmp_path / "circuit"))}
    assert [list(row) for row in shown["Do the tasks share a circuit?"].rows] == [
        ["who, what", "lrp", "0.30", "4.0", "1.5"]
    ]


def with_ends(run: Path, ends: list[dict[str, Any]]) -> Any:
    """A run's circuits, read again with these ends."""
    write_json(run / "circuit" / "circuit.json", {"ends": ends})
    return read_experiment("circuit", run / "circuit")


def titles_that_say(said: str, data: Any) -> list[str]:
    """Tables whose note ends so."""
    tables = [*circuit_tables(data), *circuit_details(data)]
    return [title for title, note in {one.title: one.note for one in tables}.items() if note.endswith(said)]


def test_where_the_whole_model_is_no_better_than_the_empty_circuit_the_tables_say_so(written: Path) -> None:
    end = {"task": "who", "draw": "first", "ablation": "mean", "difference": 4.0, "high": 5.0, "confidence": 0.95}
    ends = [{**end, "asked": IN_SAMPLE, "low": 3.0}, {**end, "asked": HELD_OUT, "low": -0.1},
            {**end, "asked": HELD_OUT, "draw": "second", "low": 3.0}]  # fmt: skip
    said = (
        " Faithfulness, and with it CPR and CMD, means nothing under mean: the whole model's logit difference is not "
        "clearly above the empty circuit's there (95% interval over samples)."
    )
    cautioned = ["Areas, asked held-out samples", "Faithfulness, asked held-out samples; the rest: mean"]
    assert titles_that_say(said, with_ends(written, ends)) == cautioned
    assert said.strip() in write_report(written).read_text(encoding="utf-8").replace("&#39;", "'")


def test_an_empty_circuit_with_a_preference_of_its_own_is_told(written: Path) -> None:
    end = {"task": "who", "draw": "first", "ablation": "mean", "difference": 3.0, "low": 2.0, "high": 4.0,
           "confidence": 0.95, "whole": 4.0, "empty": 1.25, "empty_low": 0.5, "empty_high": 2.0}  # fmt: skip
    ends = [{**end, "asked": IN_SAMPLE}, {**end, "asked": HELD_OUT, "empty": 0.9},
            {**end, "asked": HELD_OUT, "empty_low": -0.1}]  # fmt: skip
    data = with_ends(written, ends)
    said = (
        "Faithfulness 0 is not chance under mean: the empty circuit's own logit difference (+1.25) is clearly not 0 "
        "there, and more than a quarter of the whole model's."
    )
    cautioned = ["Areas, asked its own samples", "Faithfulness, asked its own samples; the rest: mean"]
    assert titles_that_say(said, data) == cautioned
    assert cautions(data) == [f"Asked its own samples: {said}"]


def test_areas_stand_with_their_intervals_and_what_is_not_clearly_behind_the_best_is_bold(tmp_path: Path) -> None:
    areas = area_rows([*rows(), *({**row, "method": "near"} for row in rows() if row["method"] == "lrp")])
    for row in areas:
        behind = 0.3 if row["method"] == "random" else 0.01 if row["method"] == "near" else 0.0
        for name in ("cpr", "cmd", "accuracy_area"):
            row |= {f"{name}_low": row[name] - 0.05, f"{name}_high": row[name] + 0.1, "confidence": 0.95}
        for name in ("cmd", "accuracy_area"):
            row |= {f"{name}_behind": behind, f"{name}_behind_low": behind - 0.02, f"{name}_behind_high": behind + 0.02}
    write_circuit(rows(), areas, PARTS, OVERLAPS, tmp_path / "circuit")
    shown = {one.title: one for one in circuit_tables(read_experiment("circuit", tmp_path / "circuit"))}
    own, behind = shown["Areas, asked its own samples"], shown["How far behind the best, asked held-out samples"]
    assert list(own.rows[0][1:]) == ["0.77\n[0.72, 0.87]", "0.14\n[0.09, 0.24]"]
    assert own.note.endswith("In brackets: 95% interval over the samples asked.")
    assert list(behind.head) == ["", "CMD mean", "accuracy mean"]
    assert [list(row) for row in behind.rows] == [
        ["lrp", "best", "best"], ["near", "0.01\n[-0.01, 0.03]", "0.01\n[-0.01, 0.03]"],
        ["random", "0.30\n[0.28, 0.32]", "0.30\n[0.28, 0.32]"],
    ]  # fmt: skip
    assert behind.strong == {(0, 1), (0, 2), (1, 1), (1, 2)}
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "How far behind the best, asked held-out samples" in page


def test_the_whole_model_s_own_choices_are_told(tmp_path: Path) -> None:
    found = [{**row, "argmax_accuracy": 0.75 if row["method"] == WHOLE else 0.0} for row in rows()]
    write_circuit(found, area_rows(found), PARTS, OVERLAPS, tmp_path / "circuit")
    line, _ = circuit_lines(read_experiment("circuit", tmp_path / "circuit"))
    assert line.startswith("Asked its own samples: logit difference +4.00 (100% right, 75% by its own choice) of the")
    assert line.endswith("of the empty circuit, mean +0.00 (50% right).")


def test_the_page_shows_them_with_the_curves(written: Path) -> None:
    page = write_report(written).read_text(encoding="utf-8")
    assert "Areas, asked held-out samples" in page
    assert page.count("<img") == 2


def test_a_line_a_method_and_a_panel_a_kind_of_question() -> None:
    figure = curves_figure(rows(), "faithfulness")
    assert figure is not None
    panels = figure.axes
    assert len(panels) == 2
    labels = panels[0].get_legend_handles_labels()[1]
    assert labels == ["lrp", "random"]
    low, high = panels[0].get_ylim()
    assert low < 0 < 1 < high <= 2.1
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "bars: least and largest\nof the draws"
    alone = curves_figure([row for row in rows() if row["draw"] == "first"], "faithfulness")
    assert alone is not None
    assert alone.legends[0].get_title().get_text() == ""


def test_one_far_circuit_does_not_flatten_the_others() -> None:
    far = rows()
    far[2]["faithfulness"] = -50.0
    figure = curves_figure(far, "faithfulness")
    assert figure is not None
    own, held_out = figure.axes
    assert own.get_ylim()[0] == pytest.approx(-1.1)
    # The mean of -50 and 0.8; the other panel hides nothing.
    assert [text.get_text() for text in own.texts] == ["outside: 1 point, -24.6"]
    assert list(held_out.texts) == []


def test_curves_are_told_apart_by_colour_and_by_shape_dashes_and_filling() -> None:
    """Nine methods as a run has them, and what knows nothing of the task is grey."""
    labels = ["lrp_signed", "lrp_signed, magnitude", "lrp", "gradient", "gradient_signed",
              "gradient_signed, magnitude", "activation", "magnitude", "random"]  # fmt: skip
    styles = method_styles(labels)
    assert len({(one["marker"], one["linestyle"], one.get("markerfacecolor")) for one in styles.values()}) == 9
    assert {name for name, one in styles.items() if one["color"].startswith("0.")} == {"magnitude", "random"}
    assert {styles[name]["color"] for name in labels[:3]}.isdisjoint(styles[name]["color"] for name in labels[3:])
    assert len({styles[name]["color"] for name in labels}) == 5


def test_where_nothing_could_be_told_there_is_a_page_without_curves(tmp_path: Path) -> None:
    """The empty circuit has failed: no faithfulness, no area, and the reason is told."""
    broken = [{**row, "faithfulness": None, "error": "RuntimeError: no memory" if row["method"] == EMPTY else None}
              for row in rows()]  # fmt: skip
    write_circuit(broken, area_rows(broken), PARTS, OVERLAPS, tmp_path / "circuit")
    data = read_experiment("circuit", tmp_path / "circuit")
    assert "Failed: 2 circuits, such as none at 0.0%: RuntimeError: no memory" in circuit_lines(data)
    assert curves_figure(broken, "faithfulness") is None
    assert "no memory" in write_report(tmp_path).read_text(encoding="utf-8")


def between(task: str, other: str, draws: tuple[str, str], jaccard: float) -> dict[str, Any]:
    what = "draws" if task == other else "tasks"
    return {"what": what, "task": task, "other_task": other, "of": "lrp", "first": draws[0], "second": draws[1],
            "num_shared": 4, "jaccard": jaccard, "expected": 1.5, "p_value": 0.1}  # fmt: skip


def test_several_tasks_stand_side_by_side_and_no_figure_mixes_them(tmp_path: Path) -> None:
    other = [{**row, "draw": "what0"} for row in rows("what") if row["draw"] == "second"]
    found = [*rows(), *other]
    parts = [*PARTS, *({**row, "task": "what", "draw": "what0", "num_kept": 1} for row in PARTS)]
    overlaps = [*OVERLAPS, between("who", "what", ("first", "what0"), 0.2),
                between("who", "what", ("second", "what0"), 0.4),
                {**OVERLAPS[1], "task": "what", "other_task": "what", "of": "what0"}]  # fmt: skip
    write_circuit(found, area_rows(found), parts, overlaps, tmp_path / "circuit")
    data = read_experiment("circuit", tmp_path / "circuit")
    lines = circuit_lines(data)
    assert [line.partition(":")[0] for line in lines] == [
        "Asked its own samples of who", "Asked held-out samples of who", "Asked its own samples of what",
        "Asked held-out samples of what",
    ]  # fmt: skip
    shown = {table.title: table for table in circuit_tables(data)}
    assert [shown[f"Areas, asked its own samples of {task}"].rows[0][1] for task in ("who", "what")] == ["0.77", "0.81"]
    assert "One draw" in shown["Areas, asked its own samples of what"].note
    assert [shown[f"Area under accuracy of {task}"].rows[0][1] for task in ("who", "what")] == ["0.83", "0.85"]
    layers = next(table for title, table in shown.items() if title.endswith("by layers"))
    assert [list(row[:3]) for row in layers.rows] == [["who", "lrp", "5.0%"], ["what", "lrp", "10.0%"]]
    assert [list(row) for row in shown["Do the draws' circuits agree?"].rows] == [["who", "lrp", "0.50", "6.0", "1.5"]]
    assert [list(row) for row in shown["Do the tasks share a circuit?"].rows] == [
        ["who, what", "lrp", "0.30", "4.0", "1.5"]
    ]
    details = [table.title for table in circuit_details(data)]
    assert details[-2:] == ["What methods share, first", "What methods share, what0"]
    assert len(details) == 4 + 2
    figure = curves_figure(found, "accuracy")
    assert figure is not None
    assert [panel.get_ylabel().partition("\n")[0] for panel in figure.axes] == ["who", "who", "what", "what"]


def test_tables_of_an_earlier_version_are_read(tmp_path: Path, written: Path) -> None:
    """A draw's name stood under `task`, all draws were of one task, and accuracy had no area."""

    def as_before(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = [{**row, "task": f"ioi_{row['draw']}"} for row in content]
        return [{key: value for key, value in row.items() if key != "draw"} for row in found]

    areas = [{key: value for key, value in row.items() if key != "task" and "accuracy" not in key}
             for row in area_rows(rows())]  # fmt: skip
    overlaps = [{key: value for key, value in row.items() if "task" not in key} for row in OVERLAPS]
    overlaps[0]["what"] = "tasks"
    write_circuit(as_before(rows()), areas, as_before(PARTS), overlaps, tmp_path / "old" / "circuit")
    data = read_experiment("circuit", tmp_path / "old" / "circuit")
    assert {(row["task"], row["draw"]) for row in data["table"]} == {("ioi", "ioi_first"), ("ioi", "ioi_second")}
    now = read_experiment("circuit", written / "circuit")
    assert circuit_lines(data) == circuit_lines(now)
    known = [table for table in circuit_tables(now) if table.title != "Area under accuracy"]
    assert circuit_tables(data) == known
    assert [table.rows for table in circuit_details(data)] == [table.rows for table in circuit_details(now)]
    assert "Areas, asked held-out samples" in write_report(tmp_path / "old").read_text(encoding="utf-8")
