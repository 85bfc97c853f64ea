"""Figures of a compression: perplexity against sparsity, and each method against one of them; in black and white."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from sparc3_lightning.report.drawing import new_figure, plain_axes

Row = Mapping[str, Any]
_MARKERS = "os^Dv<>pdh"
_FILLS = ("black", "white", "0.65")
_DASHES = ("-", "--", "-.", ":")
# Above this ratio of the largest figure to the baseline a linear axis would show one curve and a flat line.
_LOG_FROM = 5.0


def perplexity_figure(rows: Sequence[Row], protocol: str) -> Figure:
    """Perplexity against sparsity, a line a method; N:M beside the lines, unconnected.

    Args:
        rows: Rows of the table, the baseline first.
        protocol: Which perplexity.
    """
    name = f"perplexity_{protocol}"
    baseline, done = rows[0][name], [row for row in rows[1:] if row.get(name) is not None]
    figure = new_figure((6.4, 4.4))
    axes = figure.add_subplot()
    for number_, (key, members) in enumerate(_by_method(done).items()):
        _line(axes, members, lambda row: row[name], _style(number_, key))
    axes.axhline(baseline, color="0.4", linestyle=":", linewidth=1, zorder=0, label="baseline")
    if done and max(row[name] for row in done) > _LOG_FROM * baseline:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1e6 else f"{value:.0e}"))
    _finish(figure, axes, done, f"Perplexity ({protocol}) of compressed models", "perplexity")
    return figure


def against_figure(rows: Sequence[Row], protocol: str, against: str) -> Figure | None:
    """Each method's perplexity against that of one method at equal sparsity, with its paired interval.

    Args:
        rows: Rows of the table.
        protocol: Which perplexity.
        against: Key of that method.

    Returns:
        None where nothing is compared.
    """
    name = f"perplexity_{protocol}_against"
    reference = {_place(row): row[f"perplexity_{protocol}"] for row in rows if row["method"] == against}
    done = [row for row in rows[1:] if row.get(name) is not None]
    if not done:
        return None
    figure = new_figure((6.4, 4.4))
    axes = figure.add_subplot()
    shown = []
    for number_, (key, members) in enumerate(_by_method(rows[1:]).items()):
        close = [row for row in members if row in done and _percent(row, name, reference) <= 100]
        _line(axes, close, lambda row: _percent(row, name, reference), _style(number_, key), lambda row: (
            _percent(row, f"{name}_low", reference), _percent(row, f"{name}_high", reference)
        ))  # fmt: skip
        shown += close
    axes.axhline(0, color="black", linewidth=0.8, zorder=0)
    axes.yaxis.set_major_formatter("{x:+g}")
    left_out = " (more than twice as high: not shown)" if len(shown) < len(done) else ""
    _finish(figure, axes, shown, f"Against {against} at equal sparsity, {protocol}{left_out}",
            f"perplexity against {against} (%)")  # fmt: skip
    return figure


def _place(row: Row) -> tuple[Any, Any]:
    return row["sparsity"], row["pattern"]


def _percent(row: Row, name: str, reference: Mapping[tuple[Any, Any], float]) -> float:
    return 100 * float(row[name]) / reference[_place(row)]


def _by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    return found


def _style(number_: int, key: str) -> dict[str, Any]:
    if key == "random":
        return {"color": "0.6", "marker": "x", "linestyle": ":"}
    return {"color": "black", "marker": _MARKERS[number_ % len(_MARKERS)], "linestyle": _DASHES[number_ % len(_DASHES)],
            "markerfacecolor": _FILLS[number_ % len(_FILLS)]}  # fmt: skip


def _line(axes: Axes, rows: Sequence[Row], figure: Any, style: dict[str, Any], ends: Any = None) -> None:
    """A method's points: connected where they are a share of each row; N:M a little to the right, without a line."""
    key = rows[0]["method"] if rows else None
    for is_pattern in (False, True):
        members = sorted(
            (row for row in rows if (row["pattern"] is not None) == is_pattern), key=lambda row: row["share"]
        )
        if not members:
            continue
        members.sort(key=lambda row: row["share"])
        x = np.array([100 * row["share"] for row in members]) + (2.5 if is_pattern else 0.0)
        y = np.array([figure(row) for row in members], dtype=np.float64)
        label = None if is_pattern and len(members) < len(rows) else key
        drawn = {**style, "linewidth": 1.1, "markersize": 6, "markeredgewidth": 0.9, "label": label}
        drawn |= {"linestyle": "none"} if is_pattern else {}
        if ends is None:
            axes.plot(x, y, **drawn)
        else:
            bars = np.abs(np.array([ends(row) for row in members]).T - y)
            axes.errorbar(x, y, yerr=bars, elinewidth=0.8, capsize=2.5, **drawn)
        for row, place, height in zip(members, x, y, strict=True):
            if is_pattern:
                axes.annotate(
                    row["pattern"], (place, height), (4, 0), textcoords="offset points", fontsize=7, va="center"
                )


def _finish(figure: Figure, axes: Axes, rows: Sequence[Row], title: str, y_label: str) -> None:
    shares = sorted({round(100 * row["share"]) for row in rows if row["pattern"] is None}) or [50]
    axes.xaxis.set_major_locator(FixedLocator(shares))
    axes.xaxis.set_major_formatter("{x:g}")
    plain_axes(axes, title, "weights removed of each row (%)", y_label)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
