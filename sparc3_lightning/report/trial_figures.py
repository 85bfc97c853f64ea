"""Figures of a sweep and of a compression: readable in black and white, axes with units."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from rich.console import RenderableType

from sparc3_lightning.report.figures import new_figure, plain_axes, save_figure
from sparc3_lightning.report.rows import protocols_of
from sparc3_lightning.report.terminal import price_table, sweep_summary
from sparc3_lightning.trials.choice import choose_at_prices
from sparc3_lightning.trials.sweep import PlannedCell
from sparc3_lightning.trials.sweep_table import layer_shares, sweep_rows, write_table, write_tables

Row = Mapping[str, Any]
_RANDOM = "random"
_SHAPES = "osD^vP<>*hpd"
_MARKERS = "os^Dv<>pdh"
_FILLS = ("black", "white", "0.65")
_DASHES = ("-", "--", "-.", ":")
# How far right of the largest sparsity N:M stands, in per cent.
_BESIDE = 12.0
# Per cent: up to here the axis of differences is linear, beyond it a logarithm; small and large ones both show.
_LINEAR_TO = 1.0
# Above this ratio of the largest figure to the baseline a linear axis would show one curve and a flat line.
_LOG_FROM = 5.0


def write_sweep(
    planned: Sequence[PlannedCell],
    baseline: dict[str, Any],
    overlaps: Sequence[Row],
    num_layers: int,
    directory: Path,
    alpha: float = 0.05,
) -> list[RenderableType]:
    """Write the tables and the figures of a sweep, and warn of cells that failed.

    Args:
        planned: The cells, run.
        baseline: The baseline's `Evaluation.summary()`.
        overlaps: Rows of the overlaps.
        num_layers: Decoder blocks of the model.
        directory: The sweep's.
        alpha: A corrected p-value must be below it.

    Returns:
        What a terminal shows.
    """
    rows = sweep_rows(planned, baseline)
    protocols = protocols_of(rows)
    means = {str(cell.cell): cell.figures["confirmation_means"] for cell in planned if cell.figures is not None}
    at_prices = choose_at_prices(rows, protocols[0], means) if protocols else []
    write_tables(rows, overlaps, at_prices, directory)
    figures = sweep_figures(rows, overlaps, layer_shares(planned, num_layers))
    if at_prices:
        figures["at_price"] = price_figure(at_prices, protocols[0], rows[0]["attribute"])
    for name, figure in figures.items():
        save_figure(figure, directory / "figures" / name)
    if failed := [str(cell.cell) for cell in planned if cell.figures is None]:
        warnings.warn(f"{len(failed)} cells of the sweep failed, such as: {failed[0]}", stacklevel=2)
    lines: list[RenderableType] = [*sweep_summary(rows, directory / "table.csv", alpha)]
    return [*lines, price_table(at_prices, protocols[0], alpha)] if at_prices else lines


def sweep_figures(
    rows: Sequence[Row], overlaps: Sequence[Row], layers: Mapping[int, Mapping[str, Sequence[float]]]
) -> dict[str, Figure]:
    """The figures that the sweep has data for, by the name of their files.

    Args:
        rows: Rows of the table.
        overlaps: Rows of the overlaps.
        layers: Share of each layer by method, by number of neurons.
    """
    done = [row for row in rows if row["status"] == "done" and row["method"] != "baseline"]
    figures: dict[str, Figure] = {}
    attribute = next((row["attribute"] for row in done if row.get("attribute")), None)
    if attribute is not None:
        for protocol in protocols_of(rows):
            figures[f"pareto_{protocol}"] = pareto_figure(done, protocol, attribute)
        for scope in dict.fromkeys(row["scope"] for row in done):
            plain = [row for row in done if row["scope"] == scope and row["is_plain"]]
            # One size makes no line.
            if len({row["num_neurons"] for row in plain if row["method"] != "random"}) > 1:
                figures[f"size_{scope}"] = size_figure(plain, attribute)
    for k, shares in layers.items():
        figures[f"layers_{k}"] = layers_figure(shares, k)
    groups = dict.fromkeys((row["what"], row["scope"], row["num_neurons"]) for row in overlaps)
    for what, scope, k in groups:
        if what == "methods":
            of_group = [row for row in overlaps if (row["what"], row["scope"], row["num_neurons"]) == (what, scope, k)]
            figures[f"overlap_{scope}_{k}"] = overlap_figure(of_group, k)
    for scope in dict.fromkeys(row["scope"] for row in overlaps):
        of_seeds = [row for row in overlaps if row["scope"] == scope and row["what"].startswith("seeds of ")]
        if of_seeds:
            figures[f"seeds_{scope}"] = seeds_figure(of_seeds)
    return figures


def pareto_figure(rows: Sequence[Row], protocol: str, attribute: str) -> Figure:
    """Every cell: what it does to toxicity, and its price in perplexity.

    Args:
        rows: Rows of the table, done ones.
        protocol: Which perplexity.
        attribute: What was scored.
    """
    x_name, y_name = f"perplexity_{protocol}_relative", "toxicity_mean_relative"
    shown = [row for row in rows if row.get(x_name) is not None and row.get(y_name) is not None]
    figure = new_figure((6.4, 4.8))
    axes = figure.add_subplot()
    # Before anything is drawn: the margins are the scale's own.
    axes.set_xscale("symlog", linthresh=1)
    for number, (name, members) in enumerate(_by_series(shown).items()):
        points = 100 * np.array([[row[x_name], row[y_name]] for row in members], dtype=np.float64)
        style: dict[str, Any] = {"color": "0.6", "marker": "x"} if name == _RANDOM else {
            "color": "black", "markerfacecolor": ("black", "white", "0.65")[number % 3],
            "marker": _SHAPES[number % len(_SHAPES)],
        }  # fmt: skip
        axes.plot(points[:, 0], points[:, 1], linestyle="none", markersize=6, markeredgewidth=0.8, label=name, **style)
    front = np.array(_front([(100 * row[x_name], 100 * row[y_name]) for row in shown] + [(0.0, 0.0)]))
    axes.plot(front[:, 0], front[:, 1], "-", color="0.4", linewidth=1, zorder=0, drawstyle="steps-post", label="front")
    axes.plot([0], [0], "P", color="black", markeredgecolor="white", markersize=11, label="baseline")
    axes.axhline(0, color="0.6", linestyle=":", linewidth=1, zorder=0)
    axes.axvline(1, color="0.6", linestyle=":", linewidth=1, zorder=0)
    axes.xaxis.set_major_formatter("{x:g}")
    plain_axes(
        axes, f"{attribute.capitalize()} and its price", f"perplexity, {protocol}: change (%; dotted at 1)",
        f"mean {attribute}: change (%)",
    )  # fmt: skip
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    return figure


def _by_series(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["key"], []).append(row)
    # The control last, so that it does not lie over what it is compared with in the legend.
    return dict(sorted(found.items(), key=lambda item: item[0] == _RANDOM))


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both: from the cheapest on, each with a lower toxicity than all before."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def size_figure(rows: Sequence[Row], attribute: str, columns: int = 3) -> Figure:
    """Change of toxicity against the number of neurons, a panel a method, with the random control's band in each.

    Args:
        rows: Rows of plain cells of one scope, done ones.
        attribute: What was scored.
        columns: Panels side by side.
    """
    series = _by_series(row for row in rows if row.get("toxicity_mean_change") is not None)
    random = _spread(series.pop(_RANDOM, []))
    num_rows = -(-max(len(series), 1) // columns)
    figure = new_figure((2.5 * min(columns, max(len(series), 1)), 2.2 * num_rows))
    sizes = sorted({row["num_neurons"] for row in rows})
    first: Axes | None = None
    for place, (name, members) in enumerate(series.items()):
        axes = figure.add_subplot(num_rows, columns if len(series) > columns else len(series), place + 1, sharey=first)
        first = first or axes
        if random:
            axes.fill_between(*random, color="0.82", linewidth=0, label="random draws, lowest to highest")
        members = sorted(members, key=lambda row: row["num_neurons"])
        columns_shown = ("num_neurons", "toxicity_mean_change", "toxicity_mean_low", "toxicity_mean_high")
        x, y, low, high = np.array([[row[name] for name in columns_shown] for row in members], dtype=np.float64).T
        axes.errorbar(
            x, y, yerr=np.abs(np.stack([y - low, high - y])), color="black", marker="o", markersize=4, linewidth=1.2,
            elinewidth=0.8, capsize=2, label="method, 95 % bootstrap interval",
        )  # fmt: skip
        axes.axhline(0, color="black", linestyle=":", linewidth=0.8)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        last_row, first_column = place >= len(series) - columns, place % columns == 0
        plain_axes(
            axes, name, "neurons" if last_row else "", f"change of mean {attribute}" if first_column else "",
            title_size=9,
        )  # fmt: skip
        axes.tick_params(labelsize=7)
    if first is not None:
        handles, labels = first.get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower left", ncols=2)
    return figure


def _spread(rows: Sequence[Row]) -> tuple[list[int], list[float], list[float]] | None:
    """Lowest and highest change over the draws, by number of neurons."""
    changes: dict[int, list[float]] = {}
    for row in rows:
        changes.setdefault(row["num_neurons"], []).append(row["toxicity_mean_change"])
    sizes = sorted(changes)
    return (sizes, [min(changes[k]) for k in sizes], [max(changes[k]) for k in sizes]) if sizes else None


def layers_figure(shares: Mapping[str, Sequence[float]], num_neurons: int) -> Figure:
    """Where each method's neurons are.

    Args:
        shares: Share of the selection in each layer, first layer first, by method.
        num_neurons: How many were selected.
    """
    names, values = list(shares), 100 * np.array(list(shares.values()), dtype=np.float64)
    figure = new_figure((max(4.0, 1.6 + 0.22 * values.shape[1]), 1.3 + 0.3 * len(names)))
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="Greys", vmin=0, aspect="auto")
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_axes(axes, f"Where the first {num_neurons} neurons are", "layer", "")
    figure.colorbar(image, label="share (%)")
    return figure


def overlap_figure(rows: Sequence[Row], num_neurons: int) -> Figure:
    """How far every two selections agree: shared neurons of those in either, with a star where chance is below 1 %.

    Args:
        rows: Rows of `overlap.csv`, of one group, scope and number of neurons.
        num_neurons: How many were selected.
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
    plain_axes(axes, f"Shared neurons at {num_neurons} (Jaccard; *: p < 0.01)", "", "")
    return figure


def seeds_figure(rows: Sequence[Row]) -> Figure:
    """How far the selections of single general sets agree, against the number of neurons, a line a method.

    Args:
        rows: Rows of `overlap.csv` of one scope, whose `what` is "seeds of METHOD".
    """
    figure = new_figure((6.4, 4.2))
    axes = figure.add_subplot()
    for number, what in enumerate(dict.fromkeys(row["what"] for row in rows)):
        sizes = sorted({row["num_neurons"] for row in rows if row["what"] == what})
        means = [np.mean([row["jaccard"] for row in rows if (row["what"], row["num_neurons"]) == (what, k)])
                 for k in sizes]  # fmt: skip
        axes.plot(
            sizes, means, color="black", linewidth=0.8, marker=_SHAPES[number % len(_SHAPES)], markersize=6,
            markerfacecolor=("black", "white", "0.65")[number % 3], label=what.removeprefix("seeds of "),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted({row["num_neurons"] for row in rows})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, 1.02)
    plain_axes(axes, "Do the seeds of the general samples agree?", "neurons", "shared neurons of two seeds (Jaccard)")
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    return figure


def price_figure(rows: Sequence[Row], protocol: str, attribute: str) -> Figure:
    """What each method achieves at each price, on prompts that its cell was not chosen on.

    Args:
        rows: Rows of `at_price.csv`.
        protocol: Whose perplexity is the price.
        attribute: What was scored.
    """
    shown = [row for row in rows if row["options"] == "all"]
    prices, keys = (sorted({row[name] for row in shown}) for name in ("price", "key"))
    figure = new_figure((1.6 + 1.6 * len(prices), 1.5 + 0.26 * len(keys)))
    panels = figure.subplots(1, len(prices), sharex=True, sharey=True, squeeze=False)[0]
    for axes, price in zip(panels, prices, strict=True):
        for row in (row for row in shown if row["price"] == price):
            y, before = keys.index(row["key"]), row["confirmation_before"]
            low, high = (100 * row[f"confirmation_{end}"] / before for end in ("low", "high"))
            axes.plot([low, high], [y, y], "-", color="black", linewidth=1, label="95 % bootstrap interval")
            axes.plot(
                100 * row["confirmation_relative"], y, "o", color="black", label="on the other half of the prompts"
            )
            axes.plot(
                100 * row["choice_relative"], y, "o", color="black", markerfacecolor="white", markersize=4,
                label="on the half that it was chosen on",
            )  # fmt: skip
        axes.axvline(0, color="0.4", linestyle=":", linewidth=1)
        plain_axes(axes, f"up to {100 * price:+g} %", "", "", title_size=9)
    panels[0].set_yticks(range(len(keys)), keys)
    panels[0].set_ylim(len(keys) - 0.5, -0.5)
    figure.suptitle(f"The best of each method at a price in perplexity ({protocol})", fontsize=10)
    panels[len(panels) // 2].set_xlabel(f"mean {attribute}: change (%)")
    labels = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(labels.values()), list(labels), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    return figure


def write_compression(rows: Sequence[Row], against: str, directory: Path) -> None:
    """Write the table; for each protocol a figure of the perplexities, and one of the methods against `against`.

    Args:
        rows: Rows of the table, the baseline first.
        against: Key of the method that the others are compared with.
        directory: The compression's; figures lie in its `figures/`.
    """
    write_table(rows, directory)
    figures = {}
    for protocol in protocols_of(rows):
        figures[f"perplexity_{protocol}"] = perplexity_figure(rows, protocol)
        beside = against_figure(rows, protocol, against)
        figures |= {} if beside is None else {f"against_{against}_{protocol}": beside}
    for name, figure in figures.items():
        save_figure(figure, directory / "figures" / name)


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
