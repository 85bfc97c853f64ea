"""Figures show the counts they are given, with names and units on their axes."""

import os
import stat
from pathlib import Path

import pytest

from sparc3_lightning.report.drawing import save_figure
from sparc3_lightning.report.outcome_figures import comparison_figure
from sparc3_lightning.report.score_figures import layer_figure


@pytest.mark.parametrize("counts", [[4, 0, 3], [0, 1] * 40, [7]])
def test_a_bar_for_every_layer(counts: list[int]) -> None:
    figure = layer_figure(counts, "a $model$")
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == counts
    assert axes.get_xlabel().startswith("layer")
    assert axes.get_ylabel() == "neurons selected (number)"
    assert axes.lines[0].get_ydata()[0] == pytest.approx(sum(counts) / len(counts))
    assert len(axes.get_xticks()) <= 16
    assert all(tick == int(tick) for tick in axes.get_xticks())
    colour = axes.patches[0].get_facecolor()
    assert colour[0] == colour[1] == colour[2]


def test_before_and_after_is_centred_on_the_baseline() -> None:
    figure = comparison_figure({"length": 50.0, "toxicity/mean": 0.4}, {"length": 50.1, "toxicity/mean": 0.2}, [])
    length, toxicity = figure.axes
    assert length.get_ylim() == pytest.approx((47.5, 52.5))  # 0.2 % of difference looks small
    assert toxicity.get_ylim() == pytest.approx((0.16, 0.64))
    assert (length.get_ylabel(), toxicity.get_ylabel()) == ("tokens", "score, 0 to 1")


def test_every_draw_of_the_control_is_a_mark() -> None:
    draws = [{"length": 49.0}, {"length": 48.0}, {"length": 51.0}]
    (axes,) = comparison_figure({"length": 50.0}, {"length": 50.0}, draws).axes
    assert list(axes.lines[2].get_ydata()) == [49.0, 48.0, 51.0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["baseline", "pruned", "control"]


def test_without_a_control_there_is_no_place_for_it() -> None:
    (axes,) = comparison_figure({"length": 50.0}, {"length": 50.0}, []).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["baseline", "pruned"]


def test_it_is_saved_whole_and_readable_by_all(tmp_path: Path) -> None:
    path = save_figure(layer_figure([1, 2], "a $model"), tmp_path / "figures" / "layers.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["layers.png"]
