"""`experiment_results.json`: what a run found, typed; format 4, and format 3 read as such."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import mean, stdev
from typing import Any, NotRequired, TypedDict, cast

from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.evaluation.second_looks import agreements, notable_words
from sparc3_lightning.metrics.measure import Aggregate, Better, Role, Rows
from sparc3_lightning.pruning.recipe import neurons_per_layer
from sparc3_lightning.pruning.weight_recipe import AnyRecipe, WeightRecipe
from sparc3_lightning.runs.checks import validation_table
from sparc3_lightning.runs.run import Run
from sparc3_lightning.statistics.compare import Change, compare, compare_with_control
from sparc3_lightning.trials.behaviours import recipe_rows
from sparc3_lightning.trials.verdict import Findings, VerdictResult, verdict
from sparc3_lightning.version import RESULTS_FORMAT, package_versions


class ControlFigures(TypedDict):
    """A column's figure in each draw of the control, and over them; None where a draw has none."""

    draws: list[float | None]
    mean: float | None
    sd: float | None
    lowest: float | None
    highest: float | None


class ChangeResult(TypedDict):
    """`statistics.compare.Change` as JSON."""

    before: float
    after: float
    change: float
    relative: float | None
    interval: dict[str, float]
    interval_bca: dict[str, float] | None
    interval_two_stage: dict[str, float] | None
    p_value: float
    p_value_least: float
    p_value_wilcoxon: float | None
    effect_size: float | None
    rank_biserial: float | None
    share_improved: float
    share_worsened: float
    num_pairs: int
    power: dict[str, Any] | None


class ColumnResult(TypedDict):
    """A measure: what it is, its figures, and what their pairing tells; None where there is none.

    `change` is baseline against pruned, `change_against_control` the same with the mean of the control's draws as
    `before`; the other fields are those of `metrics.measure.Column`.
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
    change: ChangeResult | None
    change_against_control: ChangeResult | None


class PredictionResult(TypedDict):
    """`statistics.prediction.Prediction` as JSON."""

    num_units: int
    correlation: float | None
    correlation_interval: dict[str, float] | None
    p_value: float | None
    num_best: int
    recall: float
    recall_interval: dict[str, float]
    recall_by_chance: float
    missing: str


class PredictionsResult(TypedDict):
    """`trials.screening.Predictions` as JSON."""

    proposed_by: str
    unit: NotRequired[str]  # runs of before had words only
    methods: dict[str, PredictionResult]
    halves: PredictionResult


class BehavioursResult(TypedDict):
    """Several behaviours: rows of `trials.behaviours.compare_behaviours` and of `recipe_rows`."""

    overlaps: list[dict[str, Any]]
    recipes: list[dict[str, Any]]


class Results(TypedDict):
    """`experiment_results.json`; docs/results.md says what each field means."""

    format_version: int
    base_model: dict[str, Any]
    relevance: dict[str, Any]
    selection: dict[str, Any]
    predictions: PredictionsResult | None
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
    behaviours: NotRequired[BehavioursResult]  # where there are several; all else is then the first recipe's


def with_behaviours(run: Run) -> Results:
    """The results of a run of several behaviours, whose recipes have some each: the first's, and all side by side."""
    found = {name: one.results for name, one in run.parts.items() if one.results is not None}
    aims = {name: one.aim for name, one in run.parts.items() if one.aim is not None}
    side_by_side = BehavioursResult(overlaps=run.comparison, recipes=recipe_rows(found, aims))
    return {**next(iter(found.values())), "behaviours": side_by_side}


def experiment_results(run: Run, evaluator: Evaluator, data: dict[str, Any]) -> Results:
    """Everything a reader needs to judge the run; prompts and completions stay in the evaluations' own files.

    Args:
        run: A run with scores, recipe, both evaluations and, where wanted, the control's.
        evaluator: What evaluated; its settings of the statistics are used.
        data: Sources of the evaluation sets.

    Returns:
        JSON values; figures that do not exist are None.
    """
    assert run.recipe is not None
    assert run.baseline is not None
    assert run.pruned is not None
    aims = [run.aim] if run.aim is not None else run.aims  # of one behaviour there is one
    attribute = aims[0].attribute if len(aims) == 1 else None
    baseline, pruned, *controls = (one.judged_by(attribute) for one in (run.baseline, run.pruned, *run.controls))
    changes = compare(baseline.columns, pruned.columns, evaluator.paired_test)
    drawn = [control.columns for control in controls]
    against = compare_with_control(drawn, pruned.columns, evaluator.paired_test) if drawn else {}
    manifest = run.score_sets[run.behaviour or next(iter(run.score_sets))].manifest
    before, after = baseline.toxicity, pruned.toxicity
    agreement: list[dict[str, Any]] | None = None
    words: dict[str, list[dict[str, Any]]] | None = None
    if before is not None and after is not None:
        agreement = [asdict(found) for found in agreements(before, after)]
        words = {name: [asdict(word) for word in found] for name, found in notable_words(before, after).items()}
    return {
        "format_version": RESULTS_FORMAT,
        "base_model": run.base_model,
        "relevance": {**manifest.get("options", {}), "left_out": manifest.get("left_out", [])},
        "selection": _selection(run),
        "predictions": cast("PredictionsResult", asdict(run.predictions)) if run.predictions else None,
        "columns": column_results(baseline, pruned, controls, _as_json(changes), _as_json(against)),
        "num_control_draws": len(controls),
        "baseline": baseline.summary(),
        "pruned": pruned.summary(),
        "agreement": agreement,
        "words": words,
        "verdict": verdict(
            Findings(
                columns=baseline.columns,
                changes=changes,
                num_removed=run.recipe.num,
                what=run.recipe.what,
                against_control=against,
                draws=[control.scalars() for control in controls],
                num_empty=(before.num_empty if before else 0, after.num_empty if after else 0),
                alpha=evaluator.paired_test.alpha,
                overlap_allowed=bool(data.get("allow_overlap")),
            )
        ),
        "validation": validation_table(run),
        "data": {"reference_sets": _reference_sets(run), **data},
        "seconds": run.seconds,
        "throughput": throughput(run),
        "versions": package_versions(),
    }


def _as_json(changes: Mapping[str, Change]) -> dict[str, ChangeResult]:
    return {name: cast("ChangeResult", asdict(change)) for name, change in changes.items()}


def _selection(run: Run) -> dict[str, Any]:
    assert run.recipe is not None
    recipe = run.recipe
    kept = ("sparsity", "method", "scope", "general_weight", "general_penalty")
    lowest, highest, num_below_zero = recipe.score_range
    number, where = _number_and_place(recipe, run.base_model)
    return {
        **number,
        **{key: recipe.options[key] for key in kept if key in recipe.options},
        "general": run.general,
        "behaviour": run.behaviour,
        **({} if run.aim is None else {"recipe": run.aim.name, "behaviours": list(run.aim.behaviours)}),
        **where,
        "lowest_score": lowest,
        "highest_score": highest,
        "num_below_zero": num_below_zero,
        "screen": recipe.options.get("screen"),
    }


def _number_and_place(recipe: AnyRecipe, base: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """How many neurons or weights went, of how many; and where they lie."""
    if isinstance(recipe, WeightRecipe):
        return {"num_weights": recipe.num, "num_weights_scored": recipe.num_scored}, {"parts": recipe.parts()}
    number = {"num_neurons": recipe.num, "num_neurons_of_model": base.get("num_neurons")}
    return number, {"neurons_per_layer": neurons_per_layer(recipe, base["num_layers"])}


def _reference_sets(run: Run) -> dict[str, Any]:
    fields = ("source", "num_samples", "num_tokens", "token_hash")
    described = {name: score_set.manifest.get("data", {}) for name, score_set in run.score_sets.items()}
    return {name: {key: data.get(key) for key in fields} for name, data in described.items()}


def throughput(run: Run) -> dict[str, dict[str, float | None]]:
    """Samples and tokens per second of each reference set, by wall time; padding samples are not counted."""
    rates: dict[str, dict[str, float | None]] = {}
    for name, score_set in run.score_sets.items():
        seconds, data = run.seconds.get(f"attribution: {name}"), score_set.manifest.get("data", {})
        counts = {"samples_per_second": data.get("num_samples"), "tokens_per_second": data.get("num_tokens")}
        rates[name] = {key: count / seconds if count and seconds else None for key, count in counts.items()}
    return rates


def column_results(
    baseline: Evaluation,
    pruned: Evaluation,
    controls: Sequence[Evaluation],
    changes: Mapping[str, ChangeResult],
    against_control: Mapping[str, ChangeResult],
) -> dict[str, ColumnResult]:
    """Every column with its figures and its changes, against the baseline and against the control."""
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
