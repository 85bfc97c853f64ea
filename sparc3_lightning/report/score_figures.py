"""Figures of the scores and of the selection: readable in black and white, axes with units."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from sparc3_lightning.report.drawing import literal, new_figure, plain_axes

Floats = NDArray[np.float64]


class NeuronScores(NamedTuple):
    """Scores of all neurons, in one order.

    Attributes:
        general: Mean over the general sets (N,).
        behaviour: Of the behaviour's set (N,).
        is_selected: Which of them are in the recipe (N,).

    Units: logits.
    """

    general: Floats
    behaviour: Floats
    is_selected: NDArray[np.bool_]


def relevance_figure(
    scores: NeuronScores,
    behaviour: str,
    general_weight: float = 1.0,
    general_penalty: str = "raw",
    signed: bool = False,
) -> Figure:
    """General relevance against the behaviour's, one mark a neuron, the selected ones black.

    Args:
        scores: What to show. Log axes have no place for zeros: such neurons are counted in the legend.
        behaviour: Name of the behaviour's reference set.
        general_weight: Where `general_weight * P(general) = behaviour`, a line is drawn: the differential is 0.
        general_penalty: P: "raw" or "abs".
        signed: Scores have a sign: both axes are logarithmic on either side of 0 and linear around it.
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
    line = np.geomspace(start, end, 400) if axes.get_xscale() == "log" else np.linspace(start, end, 400)
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
        axes, "Relevance of every neuron", "general: mean relevance of a sample (logits)",
        f"{behaviour}: mean relevance of a sample (logits)",
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
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 30 else (1.0, 2.0, 5.0)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())


def layer_figure(neurons_per_layer: Sequence[int], title: str = "") -> Figure:
    """How the selected neurons are spread over the layers.

    Args:
        neurons_per_layer: Number of selected neurons of each layer, first layer first.
        title: Such as the model's id.
    """
    total, num_layers = sum(neurons_per_layer), len(neurons_per_layer)
    even = total / num_layers
    figure = new_figure((min(5.2 + 0.1 * max(0, num_layers - 16), 12), 3.8))
    axes = figure.add_subplot()
    bars = axes.bar(range(num_layers), neurons_per_layer, color="0.45", edgecolor="black", width=0.8)
    axes.bar_label(bars, labels=[str(count or "") for count in neurons_per_layer], fontsize=8, padding=1)
    axes.axhline(even, color="black", linestyle="--", linewidth=1, label=f"spread evenly: {even:.3g} a layer")
    axes.set_xticks(range(0, num_layers, -(-num_layers // 16)))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.7, num_layers - 0.3)
    axes.set_ylim(0, max(max(neurons_per_layer), even) * 1.25)
    named = f"{total} selected neurons by layer" + (f", {title}" if title else "")
    plain_axes(axes, named, "layer (0 is next to the input)", "neurons selected (number)")
    axes.legend(frameon=False, loc="upper right", fontsize=9)
    return figure


def seeds_figure(seed_variation: Mapping[str, Any]) -> Figure:
    """How far two seeds of general samples agree, pair by pair.

    Args:
        seed_variation: As the validation table has it.
    """
    top, selection = seed_variation["top_overlap"]["pairs"], seed_variation["selection_overlap"]["pairs"]
    pairs = list(selection)
    figure = new_figure((5.2, 1.9 + 0.4 * len(pairs)))
    axes = figure.add_subplot()
    places, k = range(len(pairs)), seed_variation["k"]
    axes.hlines(places, 0, 1, color="0.85", linewidth=1, zorder=0)
    axes.plot(
        [selection[pair] for pair in pairs], places, "o", color="black", label=f"the {k} neurons each would select"
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
    plain_axes(axes, "Agreement of the general samples' seeds", "neurons in common (share of k)", "pair of seeds")
    figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=2)
    return figure
