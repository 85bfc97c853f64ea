"""Figures: readable in black and white, axes with units."""

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def layer_figure(neurons_per_layer: Sequence[int], title: str = "") -> Figure:
    """How the selected neurons are spread over the layers.

    Args:
        neurons_per_layer: Number of selected neurons of each layer, first layer first.
        title: Such as the model's id.

    Returns:
        A figure of its own, outside pyplot's list of open ones: nothing has to be closed.
    """
    total, num_layers = sum(neurons_per_layer), len(neurons_per_layer)
    even = total / num_layers
    figure = Figure(figsize=(min(6.4 + 0.1 * max(0, num_layers - 16), 12), 3.8), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    bars = axes.bar(range(num_layers), neurons_per_layer, color="0.45", edgecolor="black", width=0.8)
    axes.bar_label(bars, labels=[str(count or "") for count in neurons_per_layer], fontsize=8, padding=1)
    axes.axhline(even, color="black", linestyle="--", linewidth=1, label=f"spread evenly: {even:.3g} a layer")
    axes.set_xlabel("layer (0 is next to the input)")
    axes.set_ylabel("neurons selected (number)")
    axes.set_xticks(range(0, num_layers, -(-num_layers // 16)))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.7, num_layers - 0.3)
    axes.set_ylim(0, max(max(neurons_per_layer), even) * 1.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    axes.set_title(_plain(f"{total} selected neurons by layer" + (f", {title}" if title else "")), fontsize=10)
    return figure


def comparison_figure(
    baseline: Mapping[str, float], pruned: Mapping[str, float], controls: Sequence[Mapping[str, float]]
) -> Figure:
    """The dense model, the pruned one and every draw of the control, one panel a figure.

    Args:
        baseline: Figures of the dense model by name, as `Evaluation.scalars` gives them.
        pruned: The same of the pruned model.
        controls: The same of each draw of the control; may be empty.

    Returns:
        A figure of its own, outside pyplot's list of open ones.
    """
    names = [name for name in baseline if name in pruned and all(name in draw for draw in controls)]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(2.7 * columns, 2.6 * rows), dpi=120, layout="constrained")
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.plot([0], [baseline[name]], "o", color="black", markerfacecolor="white", markersize=8)
        axes.plot([1], [pruned[name]], "o", color="black", markersize=8)
        axes.plot([2] * len(controls), [draw[name] for draw in controls], "x", color="0.35", markersize=7)
        axes.axhline(baseline[name], color="0.6", linestyle=":", linewidth=1, zorder=0)
        sides = ["dense", "pruned", "control"] if controls else ["dense", "pruned"]
        axes.set_xticks(range(len(sides)), sides)
        axes.set_xlim(-0.5, len(sides) - 0.5)
        # Centred on the dense model, and never finer than 5 % of it: a small difference should look small.
        furthest = max(abs(value - baseline[name]) for value in [pruned[name], *(draw[name] for draw in controls)])
        half = max(1.2 * furthest, 0.05 * abs(baseline[name]), 1e-3)
        axes.set_ylim(baseline[name] - half, baseline[name] + half)
        axes.set_title(name.replace("_", " ").replace("/", ", "), fontsize=9)
        axes.set_ylabel(_unit(name), fontsize=8)
        axes.tick_params(labelsize=8)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _unit(name: str) -> str:
    if name.startswith("perplexity"):
        return "perplexity"
    return {"length": "tokens", "uniqueness": "different / all tokens"}.get(
        name, "share of prompts" if name.endswith("/probability") else "score, 0 to 1"
    )


def _plain(text: str) -> str:
    """Keep `$` from starting a formula."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG under a temporary name, then rename it.

    Args:
        figure: What to write.
        path: Ends in `.png`; its directory is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        figure.savefig(temporary, format="png")
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
