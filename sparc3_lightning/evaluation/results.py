"""`experiment_results.json`: what a run found, typed; format 4, and format 3 read as such."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, TypedDict, cast

from sparc3_lightning.evaluation.measure import Aggregate, Better, Role, Rows
from sparc3_lightning.evaluation.records import Evaluation


class ControlFigures(TypedDict):
    """A column's figure in each draw of the control, and over them; None where a draw has none.

    Attributes:
        draws: One a draw.
        mean: Over the draws that have one.
        sd: Their standard deviation; None of a single one.
        lowest: The least.
        highest: The largest.
    """

    draws: list[float | None]
    mean: float | None
    sd: float | None
    lowest: float | None
    highest: float | None


class ColumnResult(TypedDict):
    """A measure: what it is, its figures, and what their pairing tells.

    Attributes:
        unit: Of the figures.
        better: Which way is better.
        rows: What a row is: the unit of the statistics.
        aggregate: How rows make a figure.
        role: What it is evidence of; see `evaluation.measure.Role`.
        label: What it is, as a sentence begins with it.
        digits: Decimals in a sentence.
        limits: Least and largest value that there can be; None where there is no such.
        note: What to say of it below a table.
        setting: What it depends on but the model.
        baseline: Figure of the model as it was; None where it has none.
        pruned: Figure without the neurons.
        control: Figures of the control's draws; None without a control.
        change: Baseline against pruned, as `statistics.compare.Change`; None where no row has a value of both.
        change_against_control: The same with the mean of the control's draws as `before`.
    """

    unit: str
    better: Better
    rows: Rows
    aggregate: Aggregate
    role: Role
    label: str
    digits: int
    limits: tuple[float, float] | None
    note: str
    setting: dict[str, Any]
    baseline: float | None
    pruned: float | None
    control: ControlFigures | None
    change: dict[str, Any] | None
    change_against_control: dict[str, Any] | None


class VerdictResult(TypedDict):
    """What the figures show and what they do not.

    Attributes:
        headline: One sentence.
        behaviour: Sentences on the column that decides, and on other scorers' word.
        beside_it: Sentences on every other column that is shown.
        caveats: What to know before believing it.
        column: Name of the column that decides; None where no behaviour was measured.
        improved: Whether it got better significantly; None where it was not measured.
        improved_against_control: The same against the control; None without one.
        price: Relative change of each price, by name of its column.
        worsened: Names of the sanity columns that got significantly worse.
    """

    headline: str
    behaviour: list[str]
    beside_it: list[str]
    caveats: list[str]
    column: str | None
    improved: bool | None
    improved_against_control: bool | None
    price: dict[str, float | None]
    worsened: list[str]


class Results(TypedDict):
    """`experiment_results.json`; docs/results.md says what each field means.

    Attributes:
        format_version: 4.
        base_model: Identity of the model attributed.
        relevance: Options of the attribution.
        selection: What was removed and how it was chosen.
        columns: Every measure, by name, in the order in which they are shown.
        num_control_draws: Draws of the control; 0 without one.
        baseline: What the baseline's evaluation was made with, and counts; no prompt, completion or window.
        pruned: The same of the pruned model.
        agreement: How far further scorers agree with the first; None without completions.
        words: Words that became rarer and commoner; None without completions.
        verdict: The findings in sentences.
        validation: Checks of the scores.
        data: What was attributed and evaluated on.
        seconds: Wall time of each stage.
        throughput: Attribution's samples and tokens a second, by set.
        versions: Of the packages that decide the figures.
    """

    format_version: int
    base_model: dict[str, Any]
    relevance: dict[str, Any]
    selection: dict[str, Any]
    columns: dict[str, ColumnResult]
    num_control_draws: int
    baseline: dict[str, Any]
    pruned: dict[str, Any]
    agreement: list[dict[str, Any]] | None
    words: dict[str, list[dict[str, Any]]] | None
    verdict: VerdictResult
    validation: dict[str, Any]
    data: dict[str, Any]
    seconds: dict[str, float]
    throughput: dict[str, dict[str, float | None]]
    versions: dict[str, str]


def column_results(
    baseline: Evaluation,
    pruned: Evaluation,
    controls: Sequence[Evaluation],
    changes: Mapping[str, dict[str, Any]],
    against_control: Mapping[str, dict[str, Any]],
) -> dict[str, ColumnResult]:
    """Every column with its figures and changes.

    Args:
        baseline: Evaluation of the model as it was.
        pruned: The same without the neurons.
        controls: The same without random neurons, one a draw.
        changes: Baseline against pruned by column, as JSON.
        against_control: Control against pruned.
    """
    before, after, draws = baseline.scalars(), pruned.scalars(), [control.scalars() for control in controls]
    return {
        name: ColumnResult(
            unit=column.unit,
            better=column.better,
            rows=column.rows,
            aggregate=column.aggregate,
            role=column.role,
            label=column.spoken,
            digits=column.digits,
            limits=column.limits,
            note=column.note,
            setting=dict(column.setting),
            baseline=before.get(name),
            pruned=after.get(name),
            control=_control_figures([draw.get(name) for draw in draws]) if draws else None,
            change=changes.get(name),
            change_against_control=against_control.get(name),
        )
        for name, column in baseline.columns.items()
    }


def _control_figures(draws: list[float | None]) -> ControlFigures:
    known = [draw for draw in draws if draw is not None]
    # A figure can be missing in a draw: uniqueness, where all completions are empty. Then no mean is all draws'.
    if len(known) < len(draws):
        return {"draws": draws, "mean": None, "sd": None, "lowest": None, "highest": None}
    spread = stdev(known) if len(known) > 1 else None
    return {"draws": draws, "mean": mean(known), "sd": spread, "lowest": min(known), "highest": max(known)}


def from_format_3(
    results: Mapping[str, Any], baseline: Evaluation, pruned: Evaluation, controls: Sequence[Evaluation]
) -> Results:
    """Results of format 3 as those of format 4, with the run's evaluations, whose files have not changed."""
    control, verdict = results["control"], results["verdict"]
    against = {} if control is None else control["pruned_against_control"]
    changes = _by_column({**results["changes"]["toxicity"], "perplexity": results["changes"]["perplexity"]})
    changes |= {name: results["changes"][name] for name in ("uniqueness", "length") if results["changes"][name]}
    kept = {name: value for name, value in results.items() if name in Results.__annotations__}
    worse = {"uniqueness": verdict["repeats_more"], "length": verdict["shorter"]}
    return cast(
        "Results",
        {
            **kept,
            "format_version": 4,
            "columns": column_results(baseline, pruned, controls, changes, _by_column(against)),
            "num_control_draws": len(controls),
            "verdict": {
                "headline": verdict["headline"],
                "behaviour": verdict["toxicity"],
                "beside_it": verdict["beside_it"],
                "caveats": verdict["caveats"],
                "column": baseline.behaviour_column,
                "improved": verdict["toxicity_fell"],
                "improved_against_control": verdict["toxicity_fell_against_control"],
                "price": {f"perplexity/{name}": value for name, value in verdict["perplexity_change"].items()},
                "worsened": [name for name, is_worse in worse.items() if is_worse],
            },
        },
    )


def _by_column(changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Format 3 nests changes: protocols in `perplexity`, and attributes in each measure of toxicity."""
    return {
        f"perplexity/{name}" if measure == "perplexity" else f"{name}/{measure}": change
        for measure, found in changes.items()
        for name, change in found.items()
    }
