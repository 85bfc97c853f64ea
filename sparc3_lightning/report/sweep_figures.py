"""Figures of a sweep: readable in black and white, axes with units."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from sparc3_lightning.report.drawing import new_figure, plain_axes

Row = Mapping[str, Any]
_MARKERS = "osD^vP<>*hpd"
_RANDOM = "random"


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
            "marker": _MARKERS[number % len(_MARKERS)],
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
            sizes, means, color="black", linewidth=0.8, marker=_MARKERS[number % len(_MARKERS)], markersize=6,
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
