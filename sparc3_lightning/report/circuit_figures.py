"""Tables and figures of circuits: how much of a model a task needs."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparc3_lightning.files import write_text
from sparc3_lightning.report.figures import Floats, new_figure, plain_axes, save_figure
from sparc3_lightning.report.trial_figures import grouped
from sparc3_lightning.trials import ASKED, CONTROL, EMPTY, WHOLE
from sparc3_lightning.trials.table import write_table

Row = Mapping[str, Any]
_REST = {"zero": "rest at zero", "mean": "rest at its mean", "corrupted": "rest from the twin"}
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "black")
"""Told apart by who sees few colours. Source: Okabe and Ito, Color Universal Design (2008), but for its yellow."""
_SHAPES = "osD^vP<>"
_VARIANTS = {"": ("-", None), "_signed": ("--", "white")}
"""Dashes and filling of a method's marks, by what its label has after its name; None fills with its colour."""
_OF_LARGEST = ("-.", "0.8")
_GREY: dict[str, dict[str, Any]] = {
    "magnitude": {"color": "0.45", "marker": "+", "linestyle": "-", "zorder": 1.5},
    CONTROL: {"color": "0.6", "marker": "x", "linestyle": ":", "zorder": 1.5},
}
"""What knows nothing of the task."""
_POINT = ("task", "asked", "ablation", "method", "share")
MEASURES = {"faithfulness": "faithfulness (logit difference)", "accuracy": "accuracy"}


def write_circuit(
    rows: Sequence[Row], areas: Sequence[Row], parts: Sequence[Row], overlaps: Sequence[Row], directory: Path
) -> None:
    """Write `table.csv`, `areas.csv`, `parts.csv`, `overlap.csv` and the figures.

    Args:
        rows: See `circuit_rows`.
        areas: See `area_rows`.
        parts: See `part_rows`.
        overlaps: See `overlap_rows`.
        directory: The circuits'.
    """
    for name, content in (("areas", areas), ("parts", parts), ("overlap", overlaps)):
        write_text(directory / f"{name}.csv", pd.DataFrame(content).to_csv(index=False))
    write_table(rows, directory)
    for measure in MEASURES:
        if (figure := curves_figure(rows, measure)) is not None:
            save_figure(figure, directory / "figures" / measure)


def curves_figure(rows: Sequence[Row], measure: str) -> Figure | None:
    """A measure against the share that stays: a line a method, with the least and largest over the draws as bars.

    A row of panels each task and kind of question, a column each ablation. None where no circuit has the measure.

    Args:
        rows: See `circuit_rows`.
        measure: Column of the rows.
    """
    curves = [row for row in rows if row["method"] not in (EMPTY, WHOLE) and row.get(measure) is not None]
    if not curves:
        return None
    ablations = list(dict.fromkeys(row["ablation"] for row in curves))
    tasks = list(dict.fromkeys(row["task"] for row in curves))
    present = {(row["task"], row["asked"]) for row in curves}
    lines = [line for line in product(tasks, ASKED) if line in present]
    figure = new_figure((2.2 + 2.6 * len(ablations), 1.1 + 2.4 * len(lines)))
    panels = figure.subplots(len(lines), len(ablations), sharex=True, sharey=True, squeeze=False)
    styles = method_styles(row["method"] for row in curves)
    limits = _limits([row[measure] for row in curves]) if measure == "faithfulness" else None
    for (i, j), axes in np.ndenumerate(panels):
        task, asked = lines[i]
        of_panel = [row for row in rows if (row["task"], row["asked"], row["ablation"]) == (task, asked, ablations[j])
                    and row.get(measure) is not None]  # fmt: skip
        shown = [_curve(axes, [row for row in of_panel if row["method"] == method], measure, {**style, "label": method})
                 for method, style in styles.items()]  # fmt: skip
        for end in (EMPTY, WHOLE):
            if values := [row[measure] for row in of_panel if row["method"] == end]:
                axes.axhline(float(np.mean(values)), color="0.6", linestyle=":", linewidth=1, zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        named = f"{task}\n{MEASURES[measure]}" if len(tasks) > 1 else MEASURES[measure]
        plain_axes(
            axes, f"{_REST[ablations[j]]}; {ASKED[asked]}", "share that stays (%)" if i == len(lines) - 1 else "",
            named if j == 0 else "", title_size=8,
        )  # fmt: skip
        if limits is not None:  # a circuit of -10 must not flatten all others
            axes.set_ylim(*limits)
            _count_unseen(axes, np.concatenate(shown))
    handles = {
        name: handle for axes in panels.flat for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    has_bars = len({tuple(row[key] for key in _POINT) for row in curves}) < len(curves)
    figure.legend(
        [handles[name] for name in styles], [*styles], frameon=False, fontsize=8, loc="outside right upper",
        title="bars: least and largest\nof the draws" if has_bars else None, title_fontsize=7,
    )  # fmt: skip
    return figure


def method_styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """How each method's curve looks: a colour and a shape a method, dashes and filling by its sign and ranking.

    So it can be told apart without colours too. What knows nothing of the task is grey.
    """
    looks, found = zip(cycle(_COLORS), cycle(_SHAPES)), dict[str, tuple[str, str]]()
    styles: dict[str, dict[str, Any]] = {}
    for label in dict.fromkeys(labels):
        name = label.partition(",")[0].removesuffix("_signed")
        if label in _GREY:
            styles[label] = _GREY[label]
            continue
        if name not in found:
            found[name] = next(looks)
        (color, shape), (dashes, fill) = found[name], _VARIANTS.get(label.removeprefix(name), _OF_LARGEST)
        styles[label] = {"color": color, "marker": shape, "linestyle": dashes, "markerfacecolor": fill or color}
    return styles


def _limits(values: Sequence[float]) -> tuple[float, float]:
    return max(min(*values, 0.0), -1.0) - 0.1, min(max(*values, 1.0), 2.0) + 0.1


def _count_unseen(axes: Axes, values: Floats) -> None:
    """Say how many points lie outside a panel, and how far; below or above, where there is room for it."""
    low, high = axes.get_ylim()
    unseen = values[(values < low) | (values > high)]
    if not len(unseen):
        return
    ends = " to ".join(dict.fromkeys(f"{end:.1f}" for end in (unseen.min(), unseen.max())))
    text = f"outside: {len(unseen)} point{'s' * (len(unseen) > 1)}, {ends}"
    is_below = unseen.min() < low
    axes.text(
        0.03, 0.02 if is_below else 0.98, text, transform=axes.transAxes, fontsize=7,
        va="bottom" if is_below else "top", zorder=5, bbox={"color": "white", "alpha": 0.8, "pad": 1},
    )  # fmt: skip


def _curve(axes: Axes, rows: Sequence[Row], measure: str, style: Mapping[str, Any]) -> Floats:
    """Draw a method's curve, and give its points' heights."""
    by_share = dict(sorted(grouped(rows, "share").items()))
    if not by_share:
        return np.empty(0)
    x = np.array([100 * share for share in by_share])
    values = [[row[measure] for row in of_share] for of_share in by_share.values()]
    y, low, high = (np.array([of(one) for one in values], float) for of in (np.mean, min, max))
    bars = np.abs(np.stack([low, high]) - y) if max(map(len, values)) > 1 else None
    axes.errorbar(x, y, yerr=bars, linewidth=1.2, elinewidth=0.8, markersize=4, markeredgewidth=0.9, **style)
    return y
