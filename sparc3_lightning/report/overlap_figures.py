"""Figures of selections that share neurons, or weights: of a sweep's methods, or of several behaviours."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sparc3_lightning.pruning.recipe import NEURONS
from sparc3_lightning.report.figures import Picture, new_figure, plain_axes
from sparc3_lightning.report.rows import what_went

Row = Mapping[str, Any]


def behaviour_pictures(overlaps: Iterable[Row]) -> Iterator[Picture]:
    """The pictures of several behaviours: one of each number of neurons, or weights, by which they are compared.

    Args:
        overlaps: Of every two; see `trials.behaviours.compare_behaviours`.
    """
    by_size: dict[int, list[Row]] = {}
    for row in overlaps:
        if k := row[f"num_{what_went(row)}"]:
            by_size.setdefault(k, []).append({**row, "p_value": row["p_holm"]})
    for k, rows in by_size.items():
        first = f"{k} {what_went(rows[0])}"
        yield Picture(
            f"behaviours_overlap_{k}",
            overlap_figure(rows, k, what_went(rows[0])),
            f"How far the behaviours agree on their first {first}: those that both have, of those that either has.",
        )


def overlap_figure(rows: Sequence[Row], num: int, what: str = NEURONS) -> Figure:
    """How far every two selections agree: shared neurons of those in either, with a star where chance is below 1 %.

    Args:
        rows: Of every two selections.
        num: How many each holds.
        what: Neurons or weights.
    """
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
    plain_axes(axes, f"Shared {what} at {num} (Jaccard; *: p < 0.01)", "", "")
    return figure
