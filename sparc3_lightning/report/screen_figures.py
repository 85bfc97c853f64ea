"""Figures of a screen: what scores said of candidates, and what removing them did."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from sparc3_lightning.report.figures import Picture, label_log_axis, literal, new_figure, plain_axes
from sparc3_lightning.report.read import ScreenedNeurons
from sparc3_lightning.wording import NATS, lowered, measured_on, relevance_unit, spoken

if TYPE_CHECKING:  # `report` loads no torch
    from matplotlib.axes import Axes

    from sparc3_lightning.runs.results import PredictionsResult, Results


def screen_pictures(results: "Results", screened: ScreenedNeurons | None) -> Iterator[Picture]:
    """The pictures of a run that has screened; none of any other."""
    found = results.get("predictions")  # runs of before had none
    if found is None or screened is None:
        return
    units = relevance_unit(results["relevance"]), found.get("unit", NATS)
    things = measured_on(units[1])
    yield Picture(
        "relevance_and_effect",
        effect_figure(screened, found["methods"][found["proposed_by"]]["correlation"], *units),
        f"Every candidate: its score, and by how much removing it alone lowers {lowered(units[1])}. The further right, "
        "the more the score promised; were it exact, all would lie on a line that rises.",
    )
    yield Picture(
        "methods_and_effect",
        prediction_figure(found),
        "How well each method's scores order the candidates by what removing them did, with intervals. What the "
        f"{things}' halves predict of each other is no method: it shows how exact the measurement is.",
    )


def effect_figure(screened: ScreenedNeurons, correlation: float | None, unit: str, effect_unit: str) -> Figure:
    """Each candidate's score against its effect, the chosen ones black.

    Args:
        screened: The candidates.
        correlation: Spearman's, of scores and effects; None where it is not defined.
        unit: What scores are counted in.
        effect_unit: What effects are.
    """
    figure = new_figure((5.2, 4.4))
    axes = figure.add_subplot()
    scores, effects, chosen = -screened.score, screened.effect, screened.is_chosen
    axes.axhline(0, color="black", linestyle=":", linewidth=1, zorder=0)
    axes.plot(
        scores[~chosen], effects[~chosen], "o", color="0.45", markerfacecolor="none", markersize=4,
        label=f"{(~chosen).sum():,} not chosen",
    )  # fmt: skip
    axes.plot(
        scores[chosen], effects[chosen], "D", color="black", markersize=5, markeredgecolor="white",
        markeredgewidth=0.5, label=f"{chosen.sum():,} chosen",
    )  # fmt: skip
    if scores.min() > 0:
        axes.set_xscale("log")
        label_log_axis(axes.xaxis, *axes.get_xlim())
    if correlation is not None:
        axes.plot([], [], " ", label=f"rank correlation {correlation:.2f}")
    plain_axes(
        axes, f"What removing each of {len(scores):,} candidates alone does",
        f"score: relevance to the behaviour less that in general ({unit})",
        "fall of the words' log-probability (nats)"
        if effect_unit == NATS
        else f"fall of the completions' mean {spoken(effect_unit)}",
    )  # fmt: skip
    figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=3)
    return figure


def prediction_figure(found: "PredictionsResult") -> Figure:
    """Rank correlation and recall of every method, each with its interval."""
    rows = {**found["methods"], f"the {measured_on(found.get('unit', NATS))}' other half": found["halves"]}
    figure = new_figure((5.2, 1.9 + 0.32 * len(rows)))
    left, right = figure.subplots(1, 2, sharey=True)
    places = range(len(rows))
    for axes in (left, right):
        axes.axvline(0, color="0.6", linestyle=":", linewidth=1, zorder=0)
        axes.axhline(len(rows) - 1.5, color="0.8", linewidth=0.8, zorder=0)
    for place, one in zip(places, rows.values(), strict=True):
        _mark(left, place, one["correlation"], one["correlation_interval"])
        _mark(right, place, one["recall"], one["recall_interval"])
    chance = next(iter(rows.values()))["recall_by_chance"]
    right.axvline(chance, color="black", linestyle="-.", linewidth=1, label=f"by chance ({chance:.0%})")
    names = [name + (" (proposed)" if name == found["proposed_by"] else "") for name in rows]
    left.set_yticks(places, [literal(name) for name in names])
    left.set_ylim(len(rows) - 0.5, -0.5)
    right.xaxis.set_major_formatter("{x:.0%}")
    plain_axes(left, "", "rank correlation\nwith the effect", "")
    plain_axes(right, "", f"share found of\nthe best {next(iter(rows.values()))['num_best']}", "")
    figure.suptitle("Which scores predict what removal does", fontsize=10, x=0.01, ha="left")
    figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=2)
    return figure


def _mark(axes: "Axes", place: int, value: float | None, interval: dict[str, float] | None) -> None:
    """A point and its interval; nothing where it is not defined."""
    if value is not None:
        axes.plot([value], [place], "o", color="black", markersize=5)
    if interval is not None:
        axes.plot([interval["low"], interval["high"]], [place, place], "-", color="black", linewidth=1.2)
