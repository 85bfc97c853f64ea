"""Figures of a run: readable in black and white, axes with units; saved, the same each time."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from sparc3_lightning.files import write_bytes
from sparc3_lightning.pruning.recipe import NEURONS
from sparc3_lightning.pruning.weight_recipe import selected_per_layer
from sparc3_lightning.report.read import FinishedRun, NeuronScores
from sparc3_lightning.report.rows import FigureRow, figure_rows
from sparc3_lightning.wording import counted, relevance_unit, spoken

if TYPE_CHECKING:  # `report` loads no torch
    from sparc3_lightning.runs.results import ChangeResult

Floats = NDArray[np.float64]
DPI = 120
# Wide enough for the words, narrow enough to be read on a telephone.
SIZE = (5.2, 3.9)
# Names inside an SVG are drawn at random, and files are dated: without these, no two are the same.
_STABLE = {"svg.hashsalt": "sparc3", "svg.fonttype": "path"}
_METADATA = {"png": {"Software": ""}, "svg": {"Date": None, "Creator": None}}
_BASELINE: dict[str, Any] = {
    "marker": "o",
    "color": "black",
    "markerfacecolor": "white",
    "markersize": 8,
    "linestyle": "none",
}
_PRUNED: dict[str, Any] = {"marker": "o", "color": "black", "markersize": 8, "linestyle": "none"}
_CONTROL: dict[str, Any] = {"marker": "x", "color": "0.35", "markersize": 7, "linestyle": "none"}


def new_figure(size: tuple[float, float] = SIZE) -> Figure:
    """A figure of its own, outside pyplot's list of open ones: nothing has to be closed.

    Units: inches.
    """
    return Figure(figsize=size, dpi=DPI, layout="constrained")


def plain_axes(axes: Axes, title: str, x_label: str, y_label: str, title_size: float = 10) -> None:
    """Name what is shown, with units, and take away what says nothing."""
    axes.set_title(literal(title), fontsize=title_size, loc="left")
    axes.set_xlabel(literal(x_label), fontsize=9)
    axes.set_ylabel(literal(y_label), fontsize=9)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def literal(text: str) -> str:
    """Keep `$` from starting a formula."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a picture as PNG and as SVG, each whole or not at all; the same figure gives the same bytes.

    Args:
        figure: What to write.
        path: Without its ending; its directory is made.

    Returns:
        The SVG file.
    """
    for kind, metadata in _METADATA.items():
        buffer = io.BytesIO()
        with matplotlib.rc_context(_STABLE):
            figure.savefig(buffer, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # it is laid out by now: most of the time goes there
        write_bytes(path.with_name(f"{path.name}.{kind}"), buffer.getvalue())
    return path.with_name(f"{path.name}.svg")


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its files, and what it shows in a sentence."""

    name: str
    figure: Figure
    caption: str


def pictures(run: FinishedRun) -> Iterator[Picture]:
    """The pictures that a run has data for, one after the other."""
    yield from _of_scores(run)
    rows = figure_rows(run.results)
    prices = [row for row in rows if row.column["role"] == "price"]
    for behaviour in [row for row in rows if row.column["role"] == "behaviour"][:1]:
        yield from _of_behaviour(run, behaviour)
        if prices:
            yield _plane(prices[0], behaviour)
    if rows:
        panels = [Panel(row.name, row.column, row.change["before"], row.change["after"], row.draws) for row in rows]
        yield Picture(
            "before_and_after",
            comparison_figure(panels, max_columns=2),
            "Every figure before and after, and in every draw of the control. An axis spans at least 5 % of the "
            "baseline's figure on either side.",
        )


def _of_scores(run: FinishedRun) -> Iterator[Picture]:
    what = run.recipe.what
    if run.neurons is not None:
        yield from _of_neurons(run, run.neurons)
    counts = selected_per_layer(run.recipe, run.results["base_model"]["num_layers"])
    others = run.recipe.num - sum(counts)
    caption = f"In which layers the selected {what} are." + (
        f" {others:,} more lie in none (lm_head)." if others else ""
    )
    yield Picture(f"{what}_per_layer", layer_figure(counts, what=what, outside=others), caption)
    seeds = run.results["validation"]["seed_variation"]
    if seeds is not None:
        yield Picture(
            "seeds_agreement",
            seeds_figure(seeds, what),
            f"How many {what} two sets of general samples agree on: those each alone would have selected, and those "
            "with the highest general scores.",
        )


def _of_neurons(run: FinishedRun, neurons: NeuronScores) -> Iterator[Picture]:
    selection, options = run.results["selection"], run.recipe.options
    relevance = run.results["relevance"]
    signed = relevance.get("sign") == "signed"
    weight, penalty = options.get("general_weight", 1.0), options.get("general_penalty", "raw")
    yield Picture(
        "relevance",
        relevance_figure(neurons, selection["behaviour"], weight, penalty, signed, relevance_unit(relevance)),
        "Every neuron by its relevance to general text and to the behaviour. The further above the dashed line, the "
        "more specific to the behaviour.",
    )


def _of_behaviour(run: FinishedRun, row: FigureRow) -> Iterator[Picture]:
    values = np.stack([side.rows[row.name] for side in (run.baseline, run.pruned, *run.controls)])
    before, after, *controls = values[:, ~np.isnan(values).any(axis=0)]
    unit, good = row.column["rows"], "Below" if row.column["better"] == "lower" else "Above"
    yield Picture(
        f"{_file_name(row)}_pairs",
        pairs_figure(before, after, row),
        f"Every {unit} before and after, with the same noise. {good} the dashed line a {unit} has improved. A larger "
        f"mark is several {unit}s at one place.",
    )
    yield Picture(
        f"{_file_name(row)}_changes",
        changes_figure(before, after, controls, row),
        f"The {unit}s' changes, sorted. The band is what the control's draws (random {run.recipe.what} of the same "
        f"layers) do: an effect of the selection lies {good.lower()} it.",
    )


def _plane(price: FigureRow, gain: FigureRow) -> Picture:
    draws = [
        Point(paid, gained)
        for paid, gained in zip(price.draws, gain.draws, strict=True)
        if paid is not None and gained is not None
    ]
    straight = "down" if gain.column["better"] == "lower" else "up"
    return Picture(
        f"{_file_name(price)}_and_{_file_name(gain)}",
        plane_figure(price, gain, draws),
        f"{spoken(gain.kind).capitalize()} and {spoken(price.kind)} together. Straight {straight} would be an effect "
        "without a price.",
    )


def _file_name(row: FigureRow) -> str:
    return row.kind.replace("/", "_")


def _ends(change: "ChangeResult", beside: float = 0.0) -> list[float]:
    return [beside + change["interval"][end] for end in ("low", "high")]


def _with_unit(row: FigureRow) -> str:
    return f"{row.label} ({row.column['unit']})"


def _limits(row: FigureRow, values: Sequence[Floats]) -> tuple[float, float]:
    """Least and largest value that there can be; where there is no such, that there is."""
    low, high = row.column["limits"] or (min(map(np.min, values)), max(map(np.max, values)))
    return float(low), float(high)


def relevance_figure(
    scores: NeuronScores,
    behaviour: str,
    general_weight: float = 1.0,
    general_penalty: str = "raw",
    signed: bool = False,
    unit: str = "logits",
) -> Figure:
    """General relevance against the behaviour's, one mark a neuron, the selected ones black.

    Args:
        scores: What to show. Log axes have no place for zeros: such neurons are counted in the legend.
        behaviour: Name of the behaviour's reference set.
        general_weight: Where `general_weight * P(general) = behaviour`, a line is drawn: the differential is 0.
        general_penalty: P: "raw" or "abs".
        signed: Scores have a sign: both axes are logarithmic on either side of 0 and linear around it.
        unit: What relevance is counted in.
    """
    figure = new_figure((5.2, 4.6))
    axes = figure.add_subplot()
    shown = np.full(len(scores.general), True) if signed else (scores.general > 0) & (scores.behaviour > 0)
    others, chosen = shown & ~scores.is_selected, shown & scores.is_selected
    # A neuron is a dot: of half a million, an SVG would hold every one as text.
    axes.plot(
        scores.general[others], scores.behaviour[others], ".", color="0.6", markersize=3, rasterized=True,
        label=f"{others.sum():,} not selected", zorder=1,
    )  # fmt: skip
    axes.plot(
        scores.general[chosen], scores.behaviour[chosen], "D", color="black", markerfacecolor="black", markersize=4.5,
        markeredgecolor="white", markeredgewidth=0.5, label=f"{chosen.sum():,} selected", zorder=3,
    )  # fmt: skip
    _relevance_axes(axes, scores, shown, signed)
    start, end = axes.get_xlim()
    scale = axes.xaxis.get_transform()  # as many points in each part of the axis, and one where |general| turns
    first, last = scale.transform([start, end])
    line = np.union1d(scale.inverted().transform(np.linspace(first, last, 400)), np.clip(0, start, end))
    limits = axes.get_ylim()
    weight = "" if general_weight == 1 else f"{general_weight:g} x "
    general = "|general|" if general_penalty == "abs" else "general"
    penalised = np.abs(line) if general_penalty == "abs" else line
    axes.plot(
        line, general_weight * penalised, "--", color="black", linewidth=1, zorder=2,
        label=f"{weight}{general} = {literal(behaviour)}",
    )  # fmt: skip
    axes.set_xlim(start, end)
    axes.set_ylim(limits)
    if not shown.all():
        axes.plot([], [], " ", label=f"{(~shown).sum():,} with a score of 0 not shown")
    plain_axes(
        axes, "Relevance of every neuron", f"general: mean relevance of a sample ({unit})",
        f"{behaviour}: mean relevance of a sample ({unit})",
    )  # fmt: skip
    figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=4, columnspacing=1)
    return figure


def _relevance_axes(axes: Axes, scores: NeuronScores, shown: NDArray[np.bool_], signed: bool) -> None:
    if signed:
        largest = max(float(np.abs(values).max(initial=0)) for values in scores[:2]) or 1.0
        axes.set_xscale("symlog", linthresh=largest / 1e3)
        axes.set_yscale("symlog", linthresh=largest / 1e3)
    elif shown.any():
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            label_log_axis(axis, *limits)


def label_log_axis(axis: Axis, low: float, high: float) -> None:
    """Plain numbers, as many as there is room for, but at least two: a single one gives no scale."""
    num_powers = np.floor(np.log10(high)) - np.ceil(np.log10(low)) + 1  # of ten
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 30 and num_powers > 1 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def layer_figure(per_layer: Sequence[int], title: str = "", what: str = NEURONS, outside: int = 0) -> Figure:
    """How the selected neurons, or weights, are spread over the layers.

    Args:
        per_layer: How many of each layer are selected, first layer first.
        title: Such as the model's id.
        what: What they are.
        outside: How many more are selected in no layer: in lm_head.
    """
    total, num_layers = sum(per_layer), len(per_layer)
    even = total / num_layers
    figure = new_figure((min(5.2 + 0.1 * max(0, num_layers - 16), 12), 3.8))
    axes = figure.add_subplot()
    bars = axes.bar(range(num_layers), per_layer, color="0.45", edgecolor="black", width=0.8)
    turned = 90 if max(per_layer) >= 1000 else 0  # a bar is narrower than such a number
    axes.bar_label(bars, labels=[str(count or "") for count in per_layer], fontsize=8, padding=1, rotation=turned)
    axes.axhline(even, color="black", linestyle="--", linewidth=1, label=f"spread evenly: {even:.3g} a layer")
    axes.set_xticks(range(0, num_layers, -(-num_layers // 16)))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.7, num_layers - 0.3)
    axes.set_ylim(0, max(*per_layer, 1) * 1.25)  # weights may all lie in lm_head
    number = counted(total, what, "selected")
    if outside:
        number = f"{total:,} of {counted(total + outside, what, 'selected')} ({outside:,} in lm_head)"
    plain_axes(
        axes,
        f"{number} by layer" + (f", {title}" if title else ""),
        "layer (0 is next to the input)",
        f"{what} selected (number)",
    )
    axes.legend(frameon=False, loc="upper right", fontsize=9)
    return figure


def seeds_figure(seed_variation: Mapping[str, Any], what: str = NEURONS) -> Figure:
    """How far two seeds of general samples agree, pair by pair; as the validation table has it."""
    top, selection = seed_variation["top_overlap"]["pairs"], seed_variation["selection_overlap"]["pairs"]
    pairs = list(selection)
    figure = new_figure((5.2, 1.9 + 0.4 * len(pairs)))
    axes = figure.add_subplot()
    places, k = range(len(pairs)), seed_variation["k"]
    axes.hlines(places, 0, 1, color="0.85", linewidth=1, zorder=0)
    axes.plot(
        [selection[pair] for pair in pairs],
        places,
        "o",
        color="black",
        label=f"the {counted(k, what)} each would select",
    )
    axes.plot(
        [top[pair] for pair in pairs], places, "s", color="black", markerfacecolor="white",
        label=f"the {k} highest scored",
    )  # fmt: skip
    chance = seed_variation["overlap_by_chance"]
    axes.axvline(chance, color="black", linestyle="--", linewidth=1, label=f"by chance ({chance:.1%})")
    axes.set_yticks(places, [literal(pair.replace(" / ", "\n")) for pair in pairs])
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter("{x:.0%}")
    plain_axes(axes, "Agreement of the general samples' seeds", f"{what} in common (share of k)", "pair of seeds")
    figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=2)
    return figure


class Panel(NamedTuple):
    """A column's name, its unit and limits, and its figures before, after and in each draw of the control."""

    name: str
    column: Mapping[str, Any]
    before: float
    after: float
    draws: Sequence[float | None]


def comparison_figure(panels: Sequence[Panel], max_columns: int = 4) -> Figure:
    """The baseline, the pruned model and every draw of the control, one panel a figure that every draw has."""
    shown = [panel for panel in panels if None not in panel.draws]
    columns = min(max_columns, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure((2.6 * columns, 2.1 * rows))
    for place, (name, column, before, after, draws) in enumerate(shown):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.plot([0], [before], **_BASELINE)
        axes.plot([1], [after], **_PRUNED)
        axes.plot([2] * len(draws), np.array(draws, dtype=np.float64), **_CONTROL)
        axes.axhline(before, color="0.6", linestyle=":", linewidth=1, zorder=0)
        sides = ["baseline", "pruned", *(["control"] if draws else [])]
        axes.set_xticks(range(len(sides)), sides)
        axes.set_xlim(-0.5, len(sides) - 0.5)
        # Centred on the baseline, and never finer than 5 % of it: a small difference should look small.
        furthest = max(abs(value - before) for value in (after, *draws) if value is not None)
        half = max(1.2 * furthest, 0.05 * abs(before), 1e-3)
        low, high = before - half, before + half
        if column["limits"] is not None:
            least, most = column["limits"]
            margin = 0.02 * (most - least)
            low, high = max(low, least - margin), min(high, most + margin)
        axes.set_ylim(low, high)
        plain_axes(axes, spoken(name), "", column["unit"], title_size=9)
        axes.ticklabel_format(axis="y", useOffset=False)
    return figure


def pairs_figure(before: Floats, after: Floats, row: FigureRow) -> Figure:
    """Every row once: its value before against its value after (S,)."""
    figure = new_figure((5.2, 4.9))
    axes = figure.add_subplot()
    unit, (low, high) = row.column["rows"], _limits(row, (before, after))
    fell, rose = int((after < before).sum()), int((after > before).sum())
    axes.plot([low, high], [low, high], "--", color="black", linewidth=1, label="no change")
    # Values near the limits coincide: the area of a mark is the number of rows there, to a hundredth of the range.
    span = high - low or 1.0
    decimals = 2 - int(np.floor(np.log10(span)))
    places, counts = np.unique(np.stack([before, after]).round(decimals), axis=1, return_counts=True)
    axes.scatter(places[0], places[1], s=16 * counts, facecolors="none", edgecolors="0.35")
    label = f"one {unit} ({len(before)}: {fell} lower, {rose} higher, {len(before) - fell - rose} equal)"
    axes.scatter([], [], s=16, facecolors="none", edgecolors="0.35", label=label)
    axes.plot([before.mean()], [after.mean()], "P", color="black", markeredgecolor="white", markersize=12, label="mean")
    axes.set_xlim(low - 0.02 * span, high + 0.02 * span)
    axes.set_ylim(low - 0.02 * span, high + 0.02 * span)
    axes.set_aspect("equal")
    plain_axes(
        axes, f"{row.label.capitalize()}: {unit} by {unit}", f"baseline: {_with_unit(row)}",
        f"pruned model: {_with_unit(row)}",
    )  # fmt: skip
    figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=3, columnspacing=1)
    return figure


def changes_figure(before: Floats, after: Floats, controls: Sequence[Floats], row: FigureRow) -> Figure:
    """Change of every row, sorted, with the band that the control's draws fill when each is sorted too.

    If random neurons did the same, the pruned model's line would lie inside the band.

    Shape:
        (S,) each.
    """
    figure = new_figure((5.2, 4.2))
    axes = figure.add_subplot()
    unit, (low, high) = row.column["rows"], _limits(row, (before, after, *controls))
    share = (np.arange(len(before)) + 0.5) / len(before)
    if controls:
        draws = np.stack([np.sort(control - before) for control in controls])
        label = f"control: {_counted(controls)}, lowest to highest"
        axes.fill_between(share, draws.min(0), draws.max(0), color="0.75", edgecolor="0.5", linewidth=0.8, label=label)
    axes.plot(share, np.sort(after - before), "-", color="black", linewidth=1.8, label="pruned")
    axes.axhline(0, color="black", linestyle=":", linewidth=1)
    axes.set_xlim(0, 1)
    reach = 1.02 * (high - low or 1.0)
    axes.set_ylim(-reach, reach)
    axes.xaxis.set_major_formatter("{x:.0%}")
    order = f"{unit}s, from the largest fall to the largest rise (share)"
    change = f"change against baseline ({row.column['unit']})"
    plain_axes(axes, f"Change of {row.label}, by {unit}, sorted", order, change)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def _counted(draws: Sequence[Any]) -> str:
    return f"{len(draws)} draw{'s' * (len(draws) > 1)}"


class Point(NamedTuple):
    """A model in the plane of price and gain."""

    price: float
    gain: float


def plane_figure(price: FigureRow, gain: FigureRow, controls: Sequence[Point]) -> Figure:
    """Price and gain in one plane: price to the right, gain up; the control's box spans all its draws."""
    figure = new_figure((5.2, 4.4))
    axes = figure.add_subplot()
    baseline, pruned = (Point(price.change[side], gain.change[side]) for side in ("before", "after"))
    axes.annotate(
        "", pruned, baseline, arrowprops={"arrowstyle": "->", "color": "0.6", "shrinkA": 7, "shrinkB": 7}, zorder=0
    )
    if controls:
        _draw_control(axes, controls)
    black: dict[str, Any] = {"color": "black", "linewidth": 1.5, "markersize": 10}
    axes.plot(_ends(price.change, baseline.price), [pruned.gain] * 2, "|-", **black)
    axes.plot([pruned.price] * 2, _ends(gain.change, baseline.gain), "_-", **black)
    axes.plot([baseline.price], [baseline.gain], **_BASELINE, label="baseline")
    label = f"pruned, {gain.change['interval']['confidence']:.0%} intervals of the paired changes"
    axes.plot([pruned.price], [pruned.gain], **_PRUNED, label=label)
    axes.axhline(baseline.gain, color="0.6", linestyle=":", linewidth=1, zorder=0)
    axes.axvline(baseline.price, color="0.6", linestyle=":", linewidth=1, zorder=0)
    axes.margins(0.12)
    axes.ticklabel_format(useOffset=False)
    better = f"{price.label} ({price.column['better']} is better)"
    plain_axes(axes, "What was gained, and at what price", better, _with_unit(gain))
    figure.legend(frameon=False, fontsize=8, loc="outside lower left")
    return figure


def _draw_control(axes: Axes, controls: Sequence[Point]) -> None:
    """The draws, and a box that spans them: no interval, which the pruned model's bars are."""
    price, gain = (np.array(values) for values in zip(*controls, strict=True))
    x, y = ([values.min(), values.max()] for values in (price, gain))
    box: dict[str, Any] = {"facecolor": "0.92", "edgecolor": "0.6", "linewidth": 0.8, "zorder": 0}
    axes.fill([x[0], x[1], x[1], x[0]], [y[0], y[0], y[1], y[1]], **box, label="lowest to highest draw of the control")
    axes.plot(price, gain, **_CONTROL, label=f"control, {_counted(controls)}")
