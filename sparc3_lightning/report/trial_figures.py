"""Figures of a sweep and of a compression: readable in black and white, axes with units."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sparc3_lightning.report.figures import new_figure, plain_axes, save_figure
from sparc3_lightning.report.overlap_figures import overlap_figure
from sparc3_lightning.report.rows import in_brackets
from sparc3_lightning.trials import CONTROL
from sparc3_lightning.trials.choice import choose_at_prices
from sparc3_lightning.trials.sweep import PlannedCell
from sparc3_lightning.trials.sweep_table import layer_shares, sweep_rows, write_tables
from sparc3_lightning.trials.table import behaviour_of, prices_of, short_names, write_table

Row = Mapping[str, Any]
_MARKERS, _FILLS, _DASHES = "osD^vP<>*hpd", ("black", "white", "0.65"), ("-", "--", "-.", ":")
# How far right of the largest sparsity N:M stands, in per cent.
_BESIDE = 12.0
# Per cent: up to here the axis of differences is linear, beyond it a logarithm; small and large ones both show.
_LINEAR_TO = 1.0
# Above this ratio of the largest figure to the baseline a linear axis would show one curve and a flat line.
_LOG_FROM = 5.0


def write_sweep(
    planned: Sequence[PlannedCell],
    baseline: Mapping[str, Any],
    overlaps: Sequence[Row],
    num_layers: int,
    directory: Path,
) -> None:
    """Write the tables and the figures of a sweep, and warn of cells that failed.

    Args:
        planned: The cells, run.
        baseline: The baseline's figures; see `baseline_row`.
        overlaps: Rows of the overlaps.
        num_layers: Decoder blocks of the model.
        directory: The sweep's.
    """
    rows = sweep_rows(planned, baseline)
    prices = prices_of(rows)
    means = {str(cell.cell): cell.figures.means for cell in planned if cell.figures is not None}
    at_prices = choose_at_prices(rows, prices[0], means) if prices else []
    write_tables(rows, overlaps, at_prices, directory)
    figures = sweep_figures(rows, overlaps, layer_shares(planned, num_layers))
    if at_prices:
        figures["at_price"] = price_figure(at_prices, prices[0], rows[0]["attribute"])
    _save(figures, directory)
    if failed := [str(cell.cell) for cell in planned if cell.figures is None]:
        warnings.warn(f"{len(failed)} cells of the sweep failed, such as: {failed[0]}", stacklevel=2)


def write_compression(rows: Sequence[Row], against: str, directory: Path) -> None:
    """Write the table; for each price a figure of it, and one of the methods against `against`.

    Args:
        rows: Rows of the table, the baseline first.
        against: Key of the method that the others are compared with.
        directory: The compression's; figures lie in its `figures/`.
    """
    write_table(rows, directory)
    figures = {price: compressed_figure(rows, price) for price in prices_of(rows)}
    beside = {price: against_figure(rows, price, against) for price in figures}
    named = short_names(list(figures))
    figures |= {f"against_{against}_{named[price]}": figure for price, figure in beside.items() if figure is not None}
    _save(figures, directory)


def _save(figures: Mapping[str, Figure], directory: Path) -> None:
    for name, figure in figures.items():
        save_figure(figure, directory / "figures" / name)


def sweep_figures(
    rows: Sequence[Row], overlaps: Sequence[Row], layers: Mapping[int, Mapping[str, Sequence[float]]]
) -> dict[str, Figure]:
    """The figures that the sweep has data for, by the name of their files."""
    done = [row for row in rows if row["status"] == "done" and row["method"] != "baseline"]
    figures: dict[str, Figure] = {}
    attribute = next((row["attribute"] for row in done if row.get("attribute")), None)
    if attribute is not None:
        named = short_names(prices_of(rows))
        figures |= {f"pareto_{which}": pareto_figure(done, price, attribute) for price, which in named.items()}
        for scope, of_scope in grouped(done, "scope").items():
            plain = [row for row in of_scope if row["is_plain"]]
            # One size makes no line.
            if len({row["num_neurons"] for row in plain if row["method"] != CONTROL}) > 1:
                figures[f"size_{scope}"] = size_figure(plain, attribute)
    figures |= {f"layers_{k}": layers_figure(shares, k) for k, shares in layers.items()}
    for scope, of_scope in grouped(overlaps, "scope").items():
        of_methods = grouped((row for row in of_scope if row["what"] == "methods"), "num_neurons")
        figures |= {f"overlap_{scope}_{k}": overlap_figure(of_size, k) for k, of_size in of_methods.items()}
        if of_seeds := [row for row in of_scope if row["what"].startswith("seeds of ")]:
            figures[f"seeds_{scope}"] = seeds_figure(of_seeds)
    return figures


def pareto_figure(rows: Sequence[Row], price: str, attribute: str) -> Figure:
    """Every cell: what it does to the behaviour, and what it costs."""
    x_name, y_name = f"{price}_paid", f"{behaviour_of(rows)}_relative"
    shown = [row for row in rows if row.get(x_name) is not None and row.get(y_name) is not None]
    figure = new_figure((6.4, 4.8))
    axes = figure.add_subplot()
    # Before anything is drawn: the margins are the scale's own.
    axes.set_xscale("symlog", linthresh=1)
    for place, (name, members) in enumerate(_by_series(shown).items()):
        points = 100 * np.array([[row[x_name], row[y_name]] for row in members], dtype=np.float64)
        style = {**marked(place, name), "linestyle": "none", "markersize": 6, "markeredgewidth": 0.8}
        axes.plot(points[:, 0], points[:, 1], label=name, **style)
    front = np.array(_front([(100 * row[x_name], 100 * row[y_name]) for row in shown] + [(0.0, 0.0)]))
    axes.plot(front[:, 0], front[:, 1], "-", color="0.4", linewidth=1, zorder=0, drawstyle="steps-post", label="front")
    axes.plot([0], [0], "P", color="black", markeredgecolor="white", markersize=11, label="baseline")
    axes.axhline(0, color="0.6", linestyle=":", linewidth=1, zorder=0)
    axes.axvline(1, color="0.6", linestyle=":", linewidth=1, zorder=0)
    axes.xaxis.set_major_formatter("{x:g}")
    plain_axes(
        axes, f"{attribute.capitalize()} and its price", f"{price.replace('_', ', ')}: change (%; dotted at 1)",
        f"mean {attribute}: change (%)",
    )  # fmt: skip
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    return figure


def grouped(rows: Iterable[Row], key: str) -> dict[Any, list[Row]]:
    """Rows by what they have in one column, in the order in which they come."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def _by_series(rows: Iterable[Row]) -> dict[str, list[Row]]:
    # The control last, so that it does not lie over what it is compared with in the legend.
    return dict(sorted(grouped(rows, "key").items(), key=lambda item: item[0] == CONTROL))


def marked(place: int, name: str) -> dict[str, Any]:
    """How a method's points look: told apart without colours, the random control grey."""
    if name == CONTROL:
        return {"color": "0.6", "marker": "x"}
    shape, fill = _MARKERS[place % len(_MARKERS)], _FILLS[place % len(_FILLS)]
    return {"color": "black", "marker": shape, "markerfacecolor": fill}


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both: from the cheapest on, each with a lower figure than all before."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def size_figure(rows: Sequence[Row], attribute: str, columns: int = 3) -> Figure:
    """Change of the behaviour against the number of neurons, a panel a method, the random control's band in each."""
    change, low, high = (f"{behaviour_of(rows)}_{end}" for end in ("change", "low", "high"))
    series = _by_series(row for row in rows if row.get(change) is not None)
    random = {k: [row[change] for row in of_size] for k, of_size in _sizes(series.pop(CONTROL, [])).items()}
    wide, num_rows = min(columns, max(len(series), 1)), -(-max(len(series), 1) // columns)
    figure = new_figure((2.5 * wide, 2.2 * num_rows))
    first: Axes | None = None
    for place, (name, members) in enumerate(series.items()):
        axes = figure.add_subplot(num_rows, wide, place + 1, sharey=first)
        first = first or axes
        if random:
            least, most = ([of(changes) for changes in random.values()] for of in (min, max))
            axes.fill_between(
                [*random], least, most, color="0.82", linewidth=0, label="random draws, lowest to highest"
            )
        ordered = sorted(members, key=lambda row: row["num_neurons"])
        x, y, *ends = np.array([[row[key] for key in ("num_neurons", change, low, high)] for row in ordered], float).T
        axes.errorbar(
            x, y, yerr=np.abs(np.stack(ends) - y), color="black", marker="o", markersize=4, linewidth=1.2,
            elinewidth=0.8, capsize=2, label="method, 95 % bootstrap interval",
        )  # fmt: skip
        axes.axhline(0, color="black", linestyle=":", linewidth=0.8)
        _size_axis(axes, rows)
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


def _sizes(rows: Iterable[Row]) -> dict[int, list[Row]]:
    return dict(sorted(grouped(rows, "num_neurons").items()))


def _size_axis(axes: Axes, rows: Iterable[Row]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([*_sizes(rows)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")


def layers_figure(shares: Mapping[str, Sequence[float]], num_neurons: int) -> Figure:
    """Where each method's neurons are."""
    names, values = list(shares), 100 * np.array(list(shares.values()), dtype=np.float64)
    figure = new_figure((max(4.0, 1.6 + 0.22 * values.shape[1]), 1.3 + 0.3 * len(names)))
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="Greys", vmin=0, aspect="auto")
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_axes(axes, f"Where the first {num_neurons} neurons are", "layer", "")
    figure.colorbar(image, label="share (%)")
    return figure


def seeds_figure(rows: Sequence[Row]) -> Figure:
    """How far the selections of single general sets agree, against the number of neurons, a line a method."""
    figure = new_figure((6.4, 4.2))
    axes = figure.add_subplot()
    for place, (what, members) in enumerate(grouped(rows, "what").items()):
        means = {k: np.mean([row["jaccard"] for row in of_size]) for k, of_size in _sizes(members).items()}
        name = what.removeprefix("seeds of ")
        axes.plot([*means], [*means.values()], label=name, linewidth=0.8, markersize=6, **marked(place, name))
    _size_axis(axes, rows)
    axes.set_ylim(0, 1.02)
    plain_axes(axes, "Do the seeds of the general samples agree?", "neurons", "shared neurons of two seeds (Jaccard)")
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    return figure


def price_figure(rows: Sequence[Row], price: str, attribute: str) -> Figure:
    """What each method achieves at each price, on prompts that its cell was not chosen on."""
    shown = [row for row in rows if row["options"] == "all"]
    prices, keys = (sorted({row[name] for row in shown}) for name in ("price", "key"))
    figure = new_figure((1.6 + 1.6 * len(prices), 1.5 + 0.26 * len(keys)))
    panels = figure.subplots(1, len(prices), sharex=True, sharey=True, squeeze=False)[0]
    for axes, paid in zip(panels, prices, strict=True):
        for row in (row for row in shown if row["price"] == paid):
            y, before = keys.index(row["key"]), row["confirmation_before"]
            ends = [100 * row[f"confirmation_{end}"] / before for end in ("low", "high")]
            axes.plot(ends, [y, y], "-", color="black", linewidth=1, label="95 % bootstrap interval")
            axes.plot(
                100 * row["confirmation_relative"], y, "o", color="black", label="on the other half of the prompts"
            )
            axes.plot(
                100 * row["choice_relative"], y, "o", color="black", markerfacecolor="white", markersize=4,
                label="on the half that it was chosen on",
            )  # fmt: skip
        axes.axvline(0, color="0.4", linestyle=":", linewidth=1)
        plain_axes(axes, f"up to {100 * paid:+g} %", "", "", title_size=9)
    panels[0].set_yticks(range(len(keys)), keys)
    panels[0].set_ylim(len(keys) - 0.5, -0.5)
    figure.suptitle(f"The best of each method at a price in {in_brackets(price)}", fontsize=10)
    panels[len(panels) // 2].set_xlabel(f"mean {attribute}: change (%)")
    labels = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(labels.values()), list(labels), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    return figure


def compressed_figure(rows: Sequence[Row], price: str) -> Figure:
    """A price against sparsity, a line a method; N:M in a column of its own."""
    baseline, done = rows[0][price], [row for row in rows[1:] if row.get(price) is not None]
    figure = new_figure((6.4, 4.4))
    axes = figure.add_subplot()
    for place, (key, members) in enumerate(grouped(done, "method").items()):
        _line(axes, members, [row[price] for row in members], _lined(place, key), _right(rows))
    axes.axhline(baseline, color="0.4", linestyle=":", linewidth=1, zorder=0, label="baseline")
    if (ratio := max((row[price] for row in done), default=baseline) / baseline) > _LOG_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 100 else (1,), numticks=20))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value:.0e}"))
    kind = price.partition("_")[0]
    _finish(figure, axes, f"{in_brackets(price).capitalize()} of compressed models", kind, rows)
    return figure


def against_figure(rows: Sequence[Row], price: str, against: str) -> Figure | None:
    """Each method's price against that of one method at equal sparsity, in per cent, with its paired interval.

    None where nothing is compared.
    """
    name = f"{price}_against"
    reference = {_amount(row): row[price] for row in rows if row["method"] == against}

    def percent(row: Row, end: str = "") -> float:
        return 100 * float(row[f"{name}{end}"]) / float(reference[_amount(row)])

    compared = [row for row in rows[1:] if row.get(name) is not None]
    if not compared:
        return None
    figure = new_figure((6.4, 4.4))
    axes = figure.add_subplot()
    for place, key in enumerate(grouped(rows[1:], "method")):
        members = [row for row in compared if row["method"] == key]
        ends = [(percent(row, "_low"), percent(row, "_high")) for row in members]
        _line(axes, members, [percent(row) for row in members], _lined(place, key), _right(rows), ends)
    axes.axhline(0, color="black", linewidth=0.8, zorder=0)
    axes.set_yscale("symlog", linthresh=_LINEAR_TO)
    axes.yaxis.set_major_formatter("{x:+,g}")
    label = f"{price.partition('_')[0]}: difference (%; logarithmic beyond {_LINEAR_TO:g})"
    _finish(figure, axes, f"Against {against} ({price.partition('_')[2] or price})", label, rows)
    return figure


def _amount(row: Row) -> tuple[Any, Any]:
    return row["sparsity"], row["pattern"]


def _right(rows: Sequence[Row]) -> float:
    """Where N:M stands: right of all sparsities."""
    return _BESIDE + max((100 * row["sparsity"] for row in rows if row.get("sparsity") is not None), default=0.0)


def _lined(place: int, key: str) -> dict[str, Any]:
    dashes = ":" if key == CONTROL else _DASHES[place % len(_DASHES)]
    style = {"linewidth": 1.1, "markersize": 6, "markeredgewidth": 0.9, "linestyle": dashes, "label": key}
    return style | marked(place, key)


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
