"""Tables and figures of circuits: how much of a model a task needs."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparc3_lightning.files import write_text
from sparc3_lightning.report.figures import new_figure, plain_axes, save_figure
from sparc3_lightning.report.trial_figures import grouped, marked
from sparc3_lightning.trials import ASKED, CONTROL, EMPTY, WHOLE
from sparc3_lightning.trials.table import write_table

Row = Mapping[str, Any]
_REST = {"zero": "rest is zero", "mean": "rest is its mean", "corrupted": "rest is its twin's"}
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
    methods = list(dict.fromkeys(row["method"] for row in curves))
    for (i, j), axes in np.ndenumerate(panels):
        task, asked = lines[i]
        of_panel = [row for row in rows if (row["task"], row["asked"], row["ablation"]) == (task, asked, ablations[j])
                    and row.get(measure) is not None]  # fmt: skip
        for place, method in enumerate(methods):
            _curve(axes, [row for row in of_panel if row["method"] == method], measure, place, method)
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
    if measure == "faithfulness":  # a circuit of -10 must not flatten all others
        panels[0, 0].set_ylim(*_limits([row[measure] for row in curves]))
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right upper")
    return figure


def _limits(values: Sequence[float]) -> tuple[float, float]:
    return max(min(*values, 0.0), -1.0) - 0.1, min(max(*values, 1.0), 2.0) + 0.1


def _curve(axes: Axes, rows: Sequence[Row], measure: str, place: int, method: str) -> None:
    by_share = dict(sorted(grouped(rows, "share").items()))
    if not by_share:
        return
    x = np.array([100 * share for share in by_share])
    values = [[row[measure] for row in of_share] for of_share in by_share.values()]
    y, low, high = (np.array([of(one) for one in values], float) for of in (np.mean, min, max))
    bars = np.abs(np.stack([low, high]) - y) if max(map(len, values)) > 1 else None
    style = {"linestyle": ":" if method == CONTROL else "-", **marked(place, method)}
    axes.errorbar(
        x, y, yerr=bars, linewidth=0.9, elinewidth=0.6, capsize=1.5, capthick=0.6, markersize=4, label=method, **style
    )
