"""Figures of a run: readable in black and white, axes with units; saved, the same each time."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from sparc3_lightning.files import write_bytes
from sparc3_lightning.report.read import FinishedRun, NeuronScores
from sparc3_lightning.report.rows import control_draws, figure_rows
from sparc3_lightning.words import spoken

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
    yield from _of_toxicity(run)
    rows = figure_rows(run.results)
    changes = {row.figure: row.change for row in rows}
    before, after = ({name: change[side] for name, change in changes.items()} for side in ("before", "after"))
    if changes:
        draws = control_draws(run.results)
        yield Picture(
            "before_and_after",
            comparison_figure(before, after, draws, max_columns=2),
            "Every figure before and after, and in every draw of the control. An axis spans at least 5 % of the "
            "baseline's figure on either side.",
        )


def _of_scores(run: FinishedRun) -> Iterator[Picture]:
    selection, options = run.results["selection"], run.recipe.options
    signed = run.results["relevance"].get("sign") == "signed"
    weight, penalty = options.get("general_weight", 1.0), options.get("general_penalty", "raw")
    yield Picture(
        "relevance",
        relevance_figure(run.neurons, selection["behaviour"], weight, penalty, signed),
        "Every neuron by its relevance to general text and to the behaviour. The further above the dashed line, the "
        "more specific to the behaviour.",
    )
    yield Picture(
        "neurons_per_layer",
        layer_figure(selection["neurons_per_layer"]),
        "In which layers the selected neurons are.",
    )
    seeds = run.results["validation"]["seed_variation"]
    if seeds is not None:
        yield Picture(
            "seeds_agreement",
            seeds_figure(seeds),
            "How many neurons two seeds of general samples agree on: those each alone would have selected, and those "
            "with the highest general scores.",
        )


def _of_toxicity(run: FinishedRun) -> Iterator[Picture]:
    attribute, measure = run.attribute, run.measure
    if attribute is None or measure == "probability":
        return
    named = attribute if measure == "mean" else f"maximum {attribute}"
    before, after = (_prompt_scores(side, attribute, measure) for side in (run.baseline, run.pruned))
    controls = [_prompt_scores(side, attribute, measure) for side in run.controls]
    yield Picture(
        "toxicity_pairs",
        pairs_figure(before, after, named),
        "Every prompt before and after, with the same noise. Below the dashed line a prompt has improved. A larger "
        "mark is several prompts at one place.",
    )
    yield Picture(
        "toxicity_changes",
        changes_figure(before, after, controls, named),
        "The prompts' changes, sorted. The band is what the control's draws (random neurons of the same layers) do: "
        "an effect of the selection lies below it.",
    )
    paid = [name for name, column in run.results["columns"].items() if column["role"] == "price"]
    if paid:
        yield _plane(run, paid[0], attribute, measure, named)


def _plane(run: FinishedRun, paid: str, attribute: str, measure: str, named: str) -> Picture:
    columns = run.results["columns"]
    price, gain = columns[paid]["change"], columns[f"{attribute}/{measure}"]["change"]
    draws = control_draws(run.results)
    return Picture(
        "perplexity_and_toxicity",
        plane_figure(
            Point(price["before"], gain["before"]),
            Point(price["after"], gain["after"]),
            (_ends(price), _ends(gain)),
            [Point(draw[paid], draw[f"{attribute}/{measure}"]) for draw in draws],
            (f"{spoken(paid)} (lower is better)", f"{named}, mean over prompts (score, 0 to 1)"),
            gain["interval"]["confidence"],
        ),
        "Toxicity and perplexity together. Straight down would be an effect without a price.",
    )


def _ends(change: dict[str, Any]) -> tuple[float, float]:
    return change["interval"]["low"], change["interval"]["high"]


def _prompt_scores(side: dict[str, Any], attribute: str, measure: str) -> Floats:
    """One score a prompt (S,): the mean of its completions, or the highest."""
    of = max if measure == "expected_maximum" else np.mean
    rows = side["toxicity"]["prompts"]
    return np.array([of([text["scores"][attribute] for text in row["completions"]]) for row in rows], dtype=np.float64)


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
