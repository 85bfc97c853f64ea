"""`experiment_results.json`: what a run found, typed; format 4, and format 3 read as such."""

from typing import Any, TypedDict

from sparc3_lightning.evaluation.measure import Aggregate, Better, Role, Rows


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
