"""Circuits' tables and figures: means over the draws, the best marked, where what stays lies, who agrees."""

from pathlib import Path
from typing import Any

import pytest

from sparc3_lightning.report.circuit_figures import curves_figure, write_circuit
from sparc3_lightning.report.circuit_tables import circuit_details, circuit_lines, circuit_tables
from sparc3_lightning.report.page import write_report
from sparc3_lightning.report.sections import read_experiment
from sparc3_lightning.trials import EMPTY, HELD_OUT, IN_SAMPLE, WHOLE
from sparc3_lightning.trials.circuit import area_rows

DRAWS = {"first": 0.0, "second": 0.2}


def rows() -> list[dict[str, Any]]:
    found = []
    for task, more in DRAWS.items():
        for asked, scale in ((IN_SAMPLE, 1.0), (HELD_OUT, 0.5)):
            for method, share, faithful in (
                (WHOLE, 1.0, 1.0), (EMPTY, 0.0, 0.0),
                ("lrp", 0.1, 0.6 * scale + more), ("lrp", 1.0, 1.0), ("random", 0.1, 0.1 * scale), ("random", 1.0, 1.0),
            ):  # fmt: skip
                found.append({
                    "task": task, "method": method, "ablation": "mean", "share": share, "asked": asked,
                    "accuracy": 0.5 + 0.5 * faithful, "logit_difference": 4 * faithful, "faithfulness": faithful,
                    "error": None,
                })  # fmt: skip
    return found


PARTS = [
    {"task": "first", "method": "lrp", "layer": layer, "kind": kind, "num_kept": num, "num": 10}
    for layer in range(12)
    for kind, num in (("up", 1 if layer < 2 else 0), ("down", 5 if layer == 11 else 0))
]
OVERLAPS = [
    {"what": "tasks", "of": "lrp", "first": "first", "second": "second", "num_shared": 6, "jaccard": 0.5,
     "expected": 1.5, "p_value": 0.0001},
    {"what": "methods", "of": "first", "first": "lrp", "second": "random", "num_shared": 2, "jaccard": 0.1,
     "expected": 1.5, "p_value": 0.4},
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
    own, held_out, by_layer, by_kind, draws = circuit_tables(data)
    # From 0.7 (the mean of two draws) to 1 over 0.9 of the axis.
    assert [list(row) for row in own.rows] == [["lrp", "0.77", "0.14"], ["random", "0.50", "0.41"]]
    assert own.strong == {(0, 1), (0, 2)}
    assert held_out.rows[0][1] == f"{0.9 * (0.4 + 1) / 2:.2f}"
    assert list(by_layer.head) == ["", "0-1", "2-3", "4-5", "6-7", "8-9", "10-11"]
    assert list(by_layer.rows[0]) == ["lrp", "5.0%", "0.0%", "0.0%", "0.0%", "0.0%", "12.5%"]
    assert (list(by_kind.head), list(by_kind.rows[0])) == (["", "up", "down"], ["lrp", "1.7%", "4.2%"])
    assert [list(row) for row in draws.rows] == [["lrp", "0.50", "6", "2"]]
    curve, _, methods = circuit_details(data)
    assert [list(row) for row in curve.rows] == [["lrp", "0.70 (85%)"], ["random", "0.10 (55%)"]]
    assert list(methods.rows[0][:3]) == ["lrp", "random", "0.10"]


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


def test_one_far_circuit_does_not_flatten_the_others() -> None:
    far = rows()
    far[2]["faithfulness"] = -50.0
    figure = curves_figure(far, "faithfulness")
    assert figure is not None
    assert figure.axes[0].get_ylim()[0] == pytest.approx(-1.1)


def test_where_nothing_could_be_told_there_is_a_page_without_curves(tmp_path: Path) -> None:
    """The empty circuit has failed: no faithfulness, no area, and the reason is told."""
    broken = [{**row, "faithfulness": None, "error": "RuntimeError: no memory" if row["method"] == EMPTY else None}
              for row in rows()]  # fmt: skip
    write_circuit(broken, area_rows(broken), PARTS, OVERLAPS, tmp_path / "circuit")
    data = read_experiment("circuit", tmp_path / "circuit")
    assert "Failed: 2 circuits, such as none at 0.0%: RuntimeError: no memory" in circuit_lines(data)
    assert curves_figure(broken, "faithfulness") is None
    assert "no memory" in write_report(tmp_path).read_text(encoding="utf-8")
