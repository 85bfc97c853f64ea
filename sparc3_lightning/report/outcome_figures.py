"""Figures of what pruning changed: readable in black and white, axes with units."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sparc3_lightning.report.drawing import new_figure, plain_axes
from sparc3_lightning.words import spoken

Floats = NDArray[np.float64]
_BASELINE: dict[str, Any] = {
    "marker": "o",
    "color": "black",
    "markerfacecolor": "white",
    "markersize": 8,
    "linestyle": "none",
}
_PRUNED: dict[str, Any] = {"marker": "o", "color": "black", "markersize": 8, "linestyle": "none"}
_CONTROL: dict[str, Any] = {"marker": "x", "color": "0.35", "markersize": 7, "linestyle": "none"}


def comparison_figure(
    baseline: Mapping[str, float],
    pruned: Mapping[str, float],
    controls: Sequence[Mapping[str, float]],
    max_columns: int = 4,
) -> Figure:
    """The baseline, the pruned model and every draw of the control, one panel a figure.

    Args:
        baseline: Figures of the baseline by name, as `Evaluation.scalars` gives them.
        pruned: The same of the pruned model.
        controls: The same of each draw of the control; may be empty.
        max_columns: How many panels stand side by side.
    """
    names = [name for name in baseline if name in pruned and all(name in draw for draw in controls)]
    columns = min(max_columns, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure((2.6 * columns, 2.1 * rows))
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.plot([0], [baseline[name]], **_BASELINE)
        axes.plot([1], [pruned[name]], **_PRUNED)
        axes.plot([2] * len(controls), [draw[name] for draw in controls], **_CONTROL)
        axes.axhline(baseline[name], color="0.6", linestyle=":", linewidth=1, zorder=0)
        sides = ["baseline", "pruned", "control"] if controls else ["baseline", "pruned"]
        axes.set_xticks(range(len(sides)), sides)
        axes.set_xlim(-0.5, len(sides) - 0.5)
        # Centred on the baseline, and never finer than 5 % of it: a small difference should look small.
        furthest = max(abs(value - baseline[name]) for value in [pruned[name], *(draw[name] for draw in controls)])
        half = max(1.2 * furthest, 0.05 * abs(baseline[name]), 1e-3)
        low, high = baseline[name] - half, baseline[name] + half
        if not name.startswith(("perplexity", "length")):  # shares and scores end at 0 and 1
            low, high = max(low, -0.02), min(high, 1.02)
        axes.set_ylim(low, high)
        plain_axes(axes, spoken(name), "", _unit(name), title_size=9)
        axes.ticklabel_format(axis="y", useOffset=False)
    return figure


def _unit(name: str) -> str:
    if name.startswith("perplexity"):
        return "perplexity"
    return {"length": "tokens", "uniqueness": "different / all tokens"}.get(
        name, "share of prompts" if name.endswith("/probability") else "score, 0 to 1"
    )


def pairs_figure(before: Floats, after: Floats, attribute: str) -> Figure:
    """Every prompt once: its score before against its score after.

    Args:
        before: Mean score of each prompt's completions, baseline (S,).
        after: The same, pruned model.
        attribute: What was scored.
    """
    figure = new_figure((5.2, 4.9))
    axes = figure.add_subplot()
    below, above = int((after < before).sum()), int((after > before).sum())
    axes.plot([0, 1], [0, 1], "--", color="black", linewidth=1, label="no change")
    # Scores near 0 and 1 coincide: the area of a mark is the number of prompts there, to two decimals.
    places, counts = np.unique(np.stack([before, after]).round(2), axis=1, return_counts=True)
    axes.scatter(places[0], places[1], s=16 * counts, facecolors="none", edgecolors="0.35")
    label = f"one prompt ({len(before)}: {below} lower, {above} higher, {len(before) - below - above} equal)"
    axes.scatter([], [], s=16, facecolors="none", edgecolors="0.35", label=label)
    axes.plot([before.mean()], [after.mean()], "P", color="black", markeredgecolor="white", markersize=12, label="mean")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    plain_axes(
        axes, f"{attribute.capitalize()} of each prompt", f"baseline: {attribute} (score, 0 to 1)",
        f"pruned model: {attribute} (score, 0 to 1)",
    )  # fmt: skip
    figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=3, columnspacing=1)
    return figure


def changes_figure(before: Floats, after: Floats, controls: Sequence[Floats], attribute: str) -> Figure:
    """Change of every prompt, sorted, with the band that the control's draws fill when each is sorted too.

    If random neurons did the same, the pruned model's line would lie inside the band.

    Args:
        before: Mean score of each prompt's completions, baseline (S,).
        after: The same, pruned model.
        controls: The same of each draw of the control; may be empty.
        attribute: What was scored.
    """
    figure = new_figure((5.2, 4.2))
    axes = figure.add_subplot()
    share = (np.arange(len(before)) + 0.5) / len(before)
    if controls:
        draws = np.stack([np.sort(control - before) for control in controls])
        label = f"control: {len(controls)} draw{'s' * (len(controls) > 1)}, lowest to highest"
        axes.fill_between(share, draws.min(0), draws.max(0), color="0.75", edgecolor="0.5", linewidth=0.8, label=label)
    axes.plot(share, np.sort(after - before), "-", color="black", linewidth=1.8, label="pruned")
    axes.axhline(0, color="black", linestyle=":", linewidth=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(-1.02, 1.02)
    axes.xaxis.set_major_formatter("{x:.0%}")
    plain_axes(
        axes, f"Change of {attribute} by prompt, sorted", "prompts, from the largest fall to the largest rise (share)",
        f"change of {attribute} against baseline (score)",
    )  # fmt: skip
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


Ends = tuple[float, float]


class Point(NamedTuple):
    """A model in the plane of perplexity and toxicity."""

    perplexity: float
    toxicity: float


def plane_figure(
    baseline: Point,
    pruned: Point,
    intervals: tuple[Ends, Ends],
    controls: Sequence[Point],
    axes_names: tuple[str, str],
    confidence: float = 0.95,
) -> Figure:
    """Price and gain in one plane: perplexity to the right, toxicity up; the control's cross spans all its draws.

    Args:
        baseline: The baseline.
        pruned: The pruned model.
        intervals: Ends of the intervals of the paired changes of perplexity and of toxicity.
        controls: Each draw of the control; may be empty.
        axes_names: What is on the axes, with units.
        confidence: Of the intervals.
    """
    figure = new_figure((5.2, 4.4))
    axes = figure.add_subplot()
    axes.annotate(
        "", pruned, baseline, arrowprops={"arrowstyle": "->", "color": "0.6", "shrinkA": 7, "shrinkB": 7}, zorder=0
    )
    if controls:
        _draw_control(axes, controls)
    left, right = (baseline.perplexity + end for end in intervals[0])
    low, high = (baseline.toxicity + end for end in intervals[1])
    axes.plot([left, right], [pruned.toxicity] * 2, "|-", color="black", linewidth=1.5, markersize=10)
    axes.plot([pruned.perplexity] * 2, [low, high], "_-", color="black", linewidth=1.5, markersize=10)
    axes.plot([baseline.perplexity], [baseline.toxicity], **_BASELINE, label="baseline")
    label = f"pruned, {confidence:.0%} intervals of the paired changes"
    axes.plot([pruned.perplexity], [pruned.toxicity], **_PRUNED, label=label)
    axes.axhline(baseline.toxicity, color="0.6", linestyle=":", linewidth=1, zorder=0)
    axes.axvline(baseline.perplexity, color="0.6", linestyle=":", linewidth=1, zorder=0)
    axes.margins(0.12)
    axes.ticklabel_format(useOffset=False)
    plain_axes(axes, "What was gained, and at what price", *axes_names)
    figure.legend(frameon=False, fontsize=8, loc="outside lower left")
    return figure


def _draw_control(axes: Axes, controls: Sequence[Point]) -> None:
    perplexity, toxicity = (np.array(values) for values in zip(*controls, strict=True))
    middle = Point(float(perplexity.mean()), float(toxicity.mean()))
    axes.hlines(middle.toxicity, perplexity.min(), perplexity.max(), color="0.35", linewidth=1.2)
    axes.vlines(middle.perplexity, toxicity.min(), toxicity.max(), color="0.35", linewidth=1.2)
    label = f"control, {len(controls)} draw{'s' * (len(controls) > 1)}; lines: lowest to highest"
    axes.plot(perplexity, toxicity, **_CONTROL, label=label)
