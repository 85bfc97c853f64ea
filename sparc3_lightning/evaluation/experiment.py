"""What a run found, as the JSON of `experiment_results.json`."""

from dataclasses import asdict
from typing import Any, TypedDict

from sparc3_lightning.evaluation.agreement import agreements
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.evaluation.results import Results, column_results
from sparc3_lightning.evaluation.run import Run
from sparc3_lightning.evaluation.validation import validation_table
from sparc3_lightning.evaluation.verdict import Findings, verdict
from sparc3_lightning.evaluation.words import notable_words
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.statistics.compare import Change, compare, compare_with_control
from sparc3_lightning.version import RESULTS_FORMAT, package_versions


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
    changes = compare(run.baseline, run.pruned, evaluator.paired_test)
    against = compare_with_control(run.controls, run.pruned, evaluator.paired_test) if run.controls else {}
    manifest = run.score_sets[run.behaviour or next(iter(run.score_sets))].manifest
    return {
        "format_version": RESULTS_FORMAT,
        "base_model": run.base_model,
        "relevance": {**manifest.get("options", {}), "left_out": manifest.get("left_out", [])},
        "selection": _selection(run),
        "columns": column_results(run.baseline, run.pruned, run.controls, _as_json(changes), _as_json(against)),
        "num_control_draws": len(run.controls),
        "baseline": run.baseline.summary(),
        "pruned": run.pruned.summary(),
        **_second_looks(run.baseline, run.pruned),
        "verdict": verdict(
            Findings(
                columns=run.baseline.columns,
                changes=changes,
                num_neurons=len(run.recipe.neurons),
                against_control=against,
                draws=[control.scalars() for control in run.controls],
                num_empty=(_num_empty(run.baseline), _num_empty(run.pruned)),
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


def _as_json(changes: dict[str, Change]) -> dict[str, dict[str, Any]]:
    return {name: asdict(change) for name, change in changes.items()}


class _SecondLooks(TypedDict):
    agreement: list[dict[str, Any]] | None
    words: dict[str, list[dict[str, Any]]] | None


def _second_looks(baseline: Evaluation, pruned: Evaluation) -> _SecondLooks:
    """Whether scorers agree, and which words changed; None where no prompt was continued."""
    before, after = baseline.toxicity, pruned.toxicity
    if before is None or after is None:
        return {"agreement": None, "words": None}
    return {
        "agreement": [asdict(found) for found in agreements(before, after)],
        "words": {name: [asdict(word) for word in words] for name, words in notable_words(before, after).items()},
    }


def _selection(run: Run) -> dict[str, Any]:
    assert run.recipe is not None
    recipe, base = run.recipe, run.base_model
    kept = ("method", "scope", "general_weight", "general_penalty")
    return {
        "num_neurons": len(recipe.neurons),
        "num_neurons_of_model": base.get("num_neurons"),
        **{key: recipe.options[key] for key in kept if key in recipe.options},
        "general": run.general,
        "behaviour": run.behaviour,
        "neurons_per_layer": neurons_per_layer(recipe, base["num_layers"]),
        "lowest_score": min(recipe.scores, default=None),
        "highest_score": max(recipe.scores, default=None),
        "num_below_zero": sum(score < 0 for score in recipe.scores),
    }


def neurons_per_layer(recipe: Recipe, num_layers: int) -> list[int]:
    """Number of selected neurons of each layer, first layer first."""
    per_layer = recipe.per_layer()
    return [len(per_layer.get(layer, [])) for layer in range(num_layers)]


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


def _num_empty(evaluation: Evaluation) -> int:
    return 0 if evaluation.toxicity is None else evaluation.toxicity.num_empty
