"""Figures show what the run found, name their axes with units, and are the same each time."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from sparc3_lightning.report.figures import (
    NeuronScores,
    Panel,
    Point,
    changes_figure,
    comparison_figure,
    label_log_axis,
    layer_figure,
    pairs_figure,
    pictures,
    plane_figure,
    relevance_figure,
    save_figure,
    seeds_figure,
)
from sparc3_lightning.report.page import write_report
from sparc3_lightning.report.read import read_run
from sparc3_lightning.report.rows import FigureRow
from sparc3_lightning.runs.run import Run
from tests.unit.evaluation.fake_run import make_evaluation, make_run
from tests.unit.report.conftest import write_run

ALL = [
    "relevance", "neurons_per_layer", "seeds_agreement", "toxicity_pairs", "toxicity_changes",
    "perplexity_and_toxicity", "before_and_after",
]  # fmt: skip


def figures_of(run: Run, directory: Path) -> dict[str, Figure]:
    return {picture.name: picture.figure for picture in pictures(read_run(write_run(run, directory)))}


COLUMNS = {
    "toxicity/mean": {"rows": "prompt", "unit": "score, 0 to 1", "better": "lower", "limits": (0.0, 1.0)},
    "perplexity/sliding": {"rows": "window", "unit": "perplexity", "better": "lower", "limits": None},
    "uniqueness": {"rows": "prompt", "unit": "different / all tokens", "better": "higher", "limits": (0.0, 1.0)},
    "length": {"rows": "prompt", "unit": "tokens", "better": "higher", "limits": None},
}


def shown(name: str, before: float = 0.0, after: float = 0.0, ends: tuple[float, float] = (0.0, 0.0)) -> FigureRow:
    interval = {"low": ends[0], "high": ends[1], "confidence": 0.95}
    change = {"before": before, "after": after, "interval": interval}
    return FigureRow(name, COLUMNS[name], change)  # type: ignore[arg-type] # what figures read


def panel(name: str, before: float, after: float, *draws: float | None) -> Panel:
    return Panel(name, COLUMNS[name], before, after, draws)


def line(figure: Figure, label: str) -> tuple[list[float], list[float]]:
    """What the line whose legend starts with `label` shows."""
    (found,) = (drawn for drawn in figure.axes[0].lines if str(drawn.get_label()).startswith(label))
    return list(found.get_xdata()), list(found.get_ydata())


UNITS = {
    "relevance": ("logits", "logits"),
    "neurons_per_layer": ("layer", "number"),
    "seeds_agreement": ("share of k", "pair of seeds"),
    "toxicity_pairs": ("score, 0 to 1", "score, 0 to 1"),
    "toxicity_changes": ("share", "score"),
    "perplexity_and_toxicity": ("perplexity", "score, 0 to 1"),
}


def test_every_axis_is_named_with_its_unit_and_nothing_is_coloured(run_dir: Path) -> None:
    shown = list(pictures(read_run(run_dir)))
    assert [picture.name for picture in shown] == ALL
    assert set(ALL) - UNITS.keys() == {"before_and_after"}
    for picture in shown:
        assert picture.caption.endswith(".")
        assert picture.name not in UNITS or len(picture.figure.axes) == 1
        for axes in picture.figure.axes:
            assert axes.get_ylabel(), picture.name
            ticks = [tick.get_text() for tick in axes.get_xticklabels()]
            assert axes.get_xlabel() or ticks[:2] == ["baseline", "pruned"]
            x_unit, y_unit = UNITS.get(picture.name, ("", ""))
            assert x_unit in axes.get_xlabel(), picture.name
            assert y_unit in axes.get_ylabel(), picture.name
            assert axes.get_title(loc="left"), picture.name
            for drawn in axes.lines:
                assert len(set(to_rgb(drawn.get_color()))) == 1, f"{picture.name} needs colour"


def test_the_selected_neurons_are_marked_where_they_are(run_dir: Path) -> None:
    neurons = read_run(run_dir).neurons
    figure = next(pictures(read_run(run_dir))).figure
    x, y = line(figure, "2 selected")
    assert x == neurons.general[neurons.is_selected].tolist()
    assert y == neurons.behaviour[neurons.is_selected].tolist()
    assert len(line(figure, "78 not selected")[0]) == 78
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("log", "log")


def scores(general: Sequence[float], behaviour: Sequence[float]) -> NeuronScores:
    return NeuronScores(np.array(general), np.array(behaviour), np.arange(len(general)) == 0)


def test_zeros_are_counted_since_log_axes_cannot_show_them() -> None:
    figure = relevance_figure(scores([1.0, 0.0, 2.0], [2.0, 1.0, 0.0]), "toxic")
    assert line(figure, "2 with a score of 0 not shown")[0] == []
    assert len(line(figure, "1 selected")[0]) == 1


def test_all_zero_is_still_a_figure(tmp_path: Path) -> None:
    relevance_figure(scores([0.0, 0.0], [0.0, 0.0]), "toxic").savefig(tmp_path / "zeros.png")
    relevance_figure(scores([0.0, 0.0], [0.0, 0.0]), "toxic", signed=True).savefig(tmp_path / "signed.png")


def test_signed_scores_keep_their_sign() -> None:
    figure = relevance_figure(scores([-1.0, 0.5], [2.0, -0.1]), "a $b$", general_weight=8, signed=True)
    assert line(figure, "1 selected") == ([-1.0], [2.0])
    assert figure.axes[0].get_xscale() == "symlog"
    x, y = (np.array(values) for values in line(figure, "8 x general = a "))
    np.testing.assert_allclose(y, 8 * x)
    figure = relevance_figure(scores([-1.0, 0.5], [2.0, -0.1]), "toxic", 2, "abs", signed=True)
    x, y = (np.array(values) for values in line(figure, "2 x |general| = toxic"))
    assert x.min() < 0
    np.testing.assert_allclose(y, 2 * abs(x))
    assert 0 in x, "where it turns"
    figure = relevance_figure(
        scores([-1.0, 1e-6, 2e-6, 3e-6, 0.5], [2.0, 1e-6, 2e-6, 3e-6, -0.1]), "toxic", 2, "abs", True
    )
    x, _ = (np.array(values) for values in line(figure, "2 x |general| = toxic"))
    steps = np.diff(figure.axes[0].xaxis.get_transform().transform(x))
    assert steps.max() < 1.01 * np.median(steps), "a line is straight in the picture only if its points are even there"


def test_pairs_show_every_prompt_and_the_mean() -> None:
    before, after = np.array([0.2, 0.4, 0.6, 0.6]), np.array([0.1, 0.5, 0.6, 0.6])
    axes = pairs_figure(before, after, shown("toxicity/mean")).axes[0]
    marks, sample = axes.collections
    assert sorted(map(tuple, marks.get_offsets())) == [(0.2, 0.1), (0.4, 0.5), (0.6, 0.6)]
    assert sorted(marks.get_sizes().tolist()) == [16, 16, 32]
    assert "4: 1 lower, 1 higher, 2 equal" in str(sample.get_label())
    assert sample.get_sizes().tolist() == [16]
    assert line(axes.figure, "mean") == ([pytest.approx(0.45)], [pytest.approx(0.45)])


def test_changes_are_sorted_and_the_band_holds_every_draw() -> None:
    before = np.array([0.5, 0.5, 0.5])
    controls = [before + np.array([0.1, -0.1, 0.0]), before + np.array([0.2, 0.3, -0.4])]
    figure = changes_figure(before, np.array([0.5, 0.1, 0.7]), controls, shown("toxicity/mean"))
    assert line(figure, "pruned")[1] == pytest.approx([-0.4, 0.0, 0.2])
    (band,) = figure.axes[0].collections
    corners = band.get_paths()[0].vertices
    assert {round(float(y), 6) for _, y in corners} == {-0.4, 0.0, 0.1, -0.1, 0.2, 0.3}
    assert "2 draws" in str(band.get_label())


def test_the_plane_shows_models_interval_and_draws() -> None:
    price, gain = shown("perplexity/sliding", 10, 11, (0.5, 1.5)), shown("toxicity/mean", 0.5, 0.3, (-0.3, -0.1))
    figure = plane_figure(price, gain, [Point(10.2, 0.5), Point(10.4, 0.4)])
    assert line(figure, "baseline") == ([10], [0.5])
    assert line(figure, "pruned, 95% interval") == ([11], [0.3])
    assert line(figure, "control, 2 draws") == ([10.2, 10.4], [0.5, 0.4])
    drawn = [(list(one.get_xdata()), pytest.approx(list(one.get_ydata()))) for one in figure.axes[0].lines]
    assert ([10.5, 11.5], [0.3, 0.3]) in drawn
    assert ([11, 11], [0.2, 0.4]) in drawn
    (box,) = figure.axes[0].patches
    assert box.get_label() == "lowest to highest draw of the control"
    corners = {(float(x), float(y)) for x, y in box.get_path().vertices}
    assert corners == {(x, y) for x in (10.2, 10.4) for y in (0.4, 0.5)}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.016, 0.75, [0.02, 0.05, 0.1, 0.2, 0.5]), (0.005, 20.0, [0.01, 0.1, 1.0, 10.0]),
        (0.03, 0.6, [0.05, 0.1, 0.2, 0.5]), (0.21, 0.48, [0.25, 0.3, 0.35, 0.4, 0.45]),
    ],
)  # fmt: skip
def test_an_axis_has_two_numbers_at_least(low: float, high: float, expected: list[float]) -> None:
    axes = Figure().add_subplot()
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    label_log_axis(axes.xaxis, low, high)
    assert [tick for tick in axes.xaxis.get_majorticklocs() if low <= tick <= high] == pytest.approx(expected)


def test_seeds_are_compared_pair_by_pair() -> None:
    pairs = {"a / b": 0.5, "a / c": 0.25}
    figure = seeds_figure(
        {"k": 4, "overlap_by_chance": 0.1, "top_overlap": {"pairs": {"a / b": 1.0, "a / c": 0.75}},
         "selection_overlap": {"pairs": pairs}}
    )  # fmt: skip
    assert line(figure, "the 4 neurons each would select")[0] == [0.5, 0.25]
    assert line(figure, "the 4 highest scored")[0] == [1.0, 0.75]
    assert line(figure, "by chance")[0] == [0.1, 0.1]


def test_without_a_control_there_is_no_band(tmp_path: Path) -> None:
    run = make_run()
    run.controls = []
    figures = figures_of(run, tmp_path / "run")
    assert list(figures) == ALL
    assert not figures["toxicity_changes"].axes[0].collections


def test_what_was_not_measured_has_no_picture(tmp_path: Path) -> None:
    run = make_run()
    run.general, run.controls = ["general_seed0"], []
    del run.score_sets["general_seed1"], run.score_sets["general_seed2"]
    for evaluation in (run.baseline, run.pruned):
        assert evaluation is not None
        object.__setattr__(evaluation, "toxicity", None)
    assert list(figures_of(run, tmp_path / "run")) == ["relevance", "neurons_per_layer", "before_and_after"]


def test_without_a_text_there_is_no_plane(tmp_path: Path) -> None:
    run = make_run()
    for evaluation in (run.baseline, run.pruned, *run.controls):
        assert evaluation is not None
        evaluation.perplexity.clear()
    assert list(figures_of(run, tmp_path / "run")) == [name for name in ALL if name != "perplexity_and_toxicity"]


def test_where_the_maximum_counts_the_picture_shows_the_maximum(tmp_path: Path) -> None:
    run = make_run()
    run.controls = [make_evaluation([[0.2, 0.4]] * 30, protocol="rtp")]
    run.baseline = make_evaluation([[0.2, 0.8]] * 30, protocol="rtp")
    run.pruned = make_evaluation([[0.1, 0.3]] * 30, protocol="rtp")
    axes = figures_of(run, tmp_path / "run")["toxicity_pairs"].axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[0.8, 0.3]]
    assert "toxicity, expected maximum" in axes.get_xlabel()


def test_remaking_gives_the_same_files_anywhere(tmp_path: Path) -> None:
    directories = [write_run(make_run(), tmp_path / name) for name in ("one", "other")]
    for directory in (*directories, directories[0]):
        write_report(directory)
    names = [f"figures/{name}.{kind}" for name in ALL for kind in ("png", "svg")] + ["report.html"]
    assert sorted(str(path.relative_to(directories[0])) for path in directories[0].glob("figures/*")) == sorted(
        names[:-1]
    )
    for name in names:
        assert (directories[0] / name).read_bytes() == (directories[1] / name).read_bytes(), name
        assert (directories[0] / name).stat().st_mode & 0o777 == 0o644


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


def test_weights_outside_the_layers_are_told() -> None:
    (axes,) = layer_figure([4, 0, 8], "tiny", "weights", 15).axes
    assert axes.get_title(loc="left") == "12 of 27 selected weights (15 in lm_head) by layer, tiny"
    (axes,) = layer_figure([4, 0, 8], what="weights").axes
    assert axes.get_title(loc="left") == "12 selected weights by layer"


def test_before_and_after_is_centred_on_the_baseline() -> None:
    figure = comparison_figure([panel("length", 50.0, 50.1), panel("toxicity/mean", 0.4, 0.2)])
    length, toxicity = figure.axes
    assert length.get_ylim() == pytest.approx((47.5, 52.5))  # 0.2 % of difference looks small
    assert toxicity.get_ylim() == pytest.approx((0.16, 0.64))
    assert (length.get_ylabel(), toxicity.get_ylabel()) == ("tokens", "score, 0 to 1")


def test_every_draw_of_the_control_is_a_mark() -> None:
    drawn, lacking = panel("length", 50.0, 50.0, 49.0, 48.0, 51.0), panel("uniqueness", 0.9, 0.9, 0.8, None, 0.9)
    (axes,) = comparison_figure([drawn, lacking]).axes
    assert list(axes.lines[2].get_ydata()) == [49.0, 48.0, 51.0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["baseline", "pruned", "control"]
    (axes,) = comparison_figure([panel("length", 50.0, 50.0)]).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["baseline", "pruned"], "no place for none"


def test_it_is_saved_whole_and_readable_by_all(tmp_path: Path) -> None:
    path = save_figure(layer_figure([1, 2], "a $model"), tmp_path / "figures" / "layers")
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert sorted(os.listdir(path.parent)) == ["layers.png", "layers.svg"]
