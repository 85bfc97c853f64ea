"""Every picture of a run, from its files."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sparc3_lightning.report.facts import figure_rows
from sparc3_lightning.report.outcome_figures import (
    Point,
    changes_figure,
    comparison_figure,
    pairs_figure,
    plane_figure,
)
from sparc3_lightning.report.run_files import RunFiles
from sparc3_lightning.report.score_figures import Floats, layer_figure, relevance_figure, seeds_figure


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its files, and what it shows in a sentence."""

    name: str
    figure: Figure
    caption: str


def pictures(run: RunFiles) -> Iterator[Picture]:
    """The pictures that a run has data for, one after the other."""
    yield from _of_scores(run)
    yield from _of_toxicity(run)
    rows = figure_rows(run.results)
    changes = {row.figure: row.change for row in rows}
    before, after = ({name: change[side] for name, change in changes.items()} for side in ("before", "after"))
    if changes:
        draws = [] if run.results["control"] is None else run.results["control"]["draws"]
        yield Picture(
            "before_and_after",
            comparison_figure(before, after, draws, max_columns=2),
            "Every figure before and after, and in every draw of the control. An axis spans at least 5 % of the "
            "baseline's figure on either side.",
        )


def _of_scores(run: RunFiles) -> Iterator[Picture]:
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


def _of_toxicity(run: RunFiles) -> Iterator[Picture]:
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
    if run.results["changes"]["perplexity"]:
        yield _plane(run, attribute, measure, named)


def _plane(run: RunFiles, attribute: str, measure: str, named: str) -> Picture:
    changes, control = run.results["changes"], run.results["control"]
    protocol, price = next(iter(changes["perplexity"].items()))
    gain = changes["toxicity"][measure][attribute]
    draws = [] if control is None else control["draws"]
    return Picture(
        "perplexity_and_toxicity",
        plane_figure(
            Point(price["before"], gain["before"]),
            Point(price["after"], gain["after"]),
            (_ends(price), _ends(gain)),
            [Point(draw[f"perplexity/{protocol}"], draw[f"{attribute}/{measure}"]) for draw in draws],
            (f"perplexity, {protocol} (lower is better)", f"{named}, mean over prompts (score, 0 to 1)"),
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
