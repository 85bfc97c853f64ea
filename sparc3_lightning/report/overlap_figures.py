"""Figures of selections that share neurons: of a sweep's methods, or of several behaviours."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from sparc3_lightning.report.figures import Picture, new_figure, plain_axes

if TYPE_CHECKING:  # `report` loads no torch
    from sparc3_lightning.runs.results import Results

Row = Mapping[str, Any]


def behaviour_pictures(results: "Results") -> Iterator[Picture]:
    """The pictures of a run of several behaviours; none of any other."""
    found = results.get("behaviours")
    sizes = dict.fromkeys(row["num_neurons"] for row in found["overlaps"] if row["num_neurons"]) if found else ()
    for k in sizes:
        assert found is not None
        rows = [{**row, "p_value": row["p_holm"]} for row in found["overlaps"] if row["num_neurons"] == k]
        yield Picture(
            f"behaviours_overlap_{k}",
            overlap_figure(rows, k),
            f"How far the behaviours agree on their first {k} neurons: those that both have, of those that either has.",
        )


def overlap_figure(rows: Sequence[Row], num_neurons: int) -> Figure:
    """How far every two selections agree: shared neurons of those in either, with a star where chance is below 1 %."""
    names = list(dict.fromkeys(name for row in rows for name in (row["first"], row["second"])))
    values, words = np.eye(len(names)), np.full((len(names), len(names)), "", dtype=object)
    for row in rows:
        i, j = names.index(row["first"]), names.index(row["second"])
        values[i, j] = values[j, i] = row["jaccard"]
        words[i, j] = words[j, i] = f"{row['jaccard']:.2f}{'*' if row['p_value'] < 0.01 else ''}"
    side = 2.4 + 0.5 * len(names)
    figure = new_figure((max(side, 4.6), side * 0.85))  # as wide as the title
    axes = figure.add_subplot()
    axes.imshow(values, cmap="Greys", vmin=0, vmax=1)
    for (i, j), word in np.ndenumerate(words):
        axes.text(j, i, word, ha="center", va="center", fontsize=7, color="white" if values[i, j] > 0.55 else "black")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    plain_axes(axes, f"Shared neurons at {num_neurons} (Jaccard; *: p < 0.01)", "", "")
    return figure
