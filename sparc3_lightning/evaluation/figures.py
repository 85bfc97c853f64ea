"""Figures: readable in black and white, axes with units."""

import os
import uuid
from collections.abc import Sequence
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
    # One tick a bar while there is room for it.
    axes.xaxis.set_major_locator(MaxNLocator(nbins=min(num_layers, 32), integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.7, num_layers - 0.3)
    axes.set_ylim(0, max(max(neurons_per_layer), even) * 1.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    axes.set_title(_plain(f"{total} selected neurons by layer" + (f", {title}" if title else "")), fontsize=10)
    return figure


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
