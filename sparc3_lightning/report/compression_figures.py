"""Figures of a compression: perplexity against sparsity, and each method against one of them; in black and white."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from sparc3_lightning.report.drawing import new_figure, plain_axes

Row = Mapping[str, Any]
_MARKERS = "os^Dv<>pdh"
_FILLS = ("black", "white", "0.65")
_DASHES = ("-", "--", "-.", ":")
# How far right of the largest sparsity N:M stands, in per cent.
_BESIDE = 12.0
# Per cent: up to here the axis of differences is linear, beyond it a logarithm; small and large ones both show.
_LINEAR_TO = 1.0
# Above this ratio of the largest figure to the baseline a linear axis would show one curve and a flat line.
_LOG_FROM = 5.0


def perplexity_figure(rows: Sequence[Row], protocol: str) -> Figure:
    """Perplexity against sparsity, a line a method; N:M in a column of its own.

    Args:
        rows: Rows of the table, the baseline first.
        protocol: Which perplexity.
    """
    name = f"perplexity_{protocol}"
    baseline, done = rows[0][name], [row for row in rows[1:] if row.get(name) is not None]
    figure = new_figure((6.4, 4.4))
    axes = figure.add_subplot()
    for place, (key, members) in enumerate(_by_method(done).items()):
        _line(axes, members, [row[name] for row in members], _style(place, key), _right(rows))
    axes.axhline(baseline, color="0.4", linestyle=":", linewidth=1, zorder=0, label="baseline")
    if (ratio := max((row[name] for row in done), default=baseline) / baseline) > _LOG_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 100 else (1,), numticks=20))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value:.0e}"))
    _finish(figure, axes, f"Perplexity ({protocol}) of compressed models", "perplexity", rows)
    return figure


def against_figure(rows: Sequence[Row], protocol: str, against: str) -> Figure | None:
    """Each method's perplexity against that of one method at equal sparsity, in per cent, with its paired interval.

    Args:
        rows: Rows of the table.
        protocol: Which perplexity.
        against: Key of that method.

    Returns:
        None where nothing is compared.
    """
    name = f"perplexity_{protocol}_against"
    reference = {_amount(row): row[f"perplexity_{protocol}"] for row in rows if row["method"] == against}

    def percent(row: Row, end: str = "") -> float:
        return 100 * float(row[f"{name}{end}"]) / float(reference[_amount(row)])

    if all(row.get(name) is None for row in rows):
        return None
    figure = new_figure((6.4, 4.4))
    axes = figure.add_subplot()
    for place, (key, members) in enumerate(_by_method(rows[1:]).items()):
        members = [row for row in members if row.get(name) is not None]
        ends = [(percent(row, "_low"), percent(row, "_high")) for row in members]
        _line(axes, members, [percent(row) for row in members], _style(place, key), _right(rows), ends)
    axes.axhline(0, color="black", linewidth=0.8, zorder=0)
    axes.set_yscale("symlog", linthresh=_LINEAR_TO)
    axes.yaxis.set_major_formatter("{x:+,g}")
    label = f"perplexity: difference (%; logarithmic beyond {_LINEAR_TO:g})"
    _finish(figure, axes, f"Against {against} ({protocol})", label, rows)
    return figure


def _amount(row: Row) -> tuple[Any, Any]:
    return row["sparsity"], row["pattern"]


def _right(rows: Sequence[Row]) -> float:
    """Where N:M stands: right of all sparsities."""
    return _BESIDE + max((100 * row["sparsity"] for row in rows if row.get("sparsity") is not None), default=0.0)


def _by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    return found


def _style(place: int, key: str) -> dict[str, Any]:
    style = {"linewidth": 1.1, "markersize": 6, "markeredgewidth": 0.9, "label": key}
    if key == "random":
        return {**style, "color": "0.6", "marker": "x", "linestyle": ":"}
    return {**style, "color": "black", "marker": _MARKERS[place % len(_MARKERS)],
            "linestyle": _DASHES[place % len(_DASHES)], "markerfacecolor": _FILLS[place % len(_FILLS)]}  # fmt: skip


def _line(
    axes: Axes, rows: Sequence[Row], figures: Sequence[float], style: dict[str, Any], right: float,
    ends: Sequence[tuple[float, float]] = (),
) -> None:  # fmt: skip
    """A method's points, with their intervals: connected, but for N:M in its own column."""
    for is_pattern in (False, True):
        chosen = [place for place, row in enumerate(rows) if (row["pattern"] is not None) == is_pattern]
        if not chosen:
            continue
        x = np.array([right if is_pattern else 100 * rows[place]["sparsity"] for place in chosen])
        y = np.array([figures[place] for place in chosen])
        drawn = {**style, "linestyle": "none", "label": None if len(chosen) < len(rows) else style["label"]}
        bars = np.abs(np.array([ends[place] for place in chosen]).T - y) if ends else None
        axes.errorbar(x, y, yerr=bars, elinewidth=0.8, capsize=2.5, **(drawn if is_pattern else style))


def _finish(figure: Figure, axes: Axes, title: str, y_label: str, rows: Sequence[Row]) -> None:
    shares = [100 * row["sparsity"] for row in rows if row.get("sparsity") is not None]
    ticks = {share: f"{share:g}" for share in shares}
    if pattern := next((row["pattern"] for row in rows if row.get("pattern") is not None), None):
        ticks[_right(rows)] = pattern
        axes.axvline(_right(rows) - _BESIDE / 2, color="0.8", linewidth=0.8, zorder=0)
    axes.set_xticks(list(ticks), list(ticks.values()))
    plain_axes(axes, title, "weights removed of each row (%)", y_label)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
