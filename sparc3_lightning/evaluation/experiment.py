"""What a run found, as the JSON of `experiment_results.json`."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean, stdev
from typing import Any

from sparc3_lightning.evaluation.agreement import agreements
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.evaluation.run import Run
from sparc3_lightning.evaluation.validation import validation_table
from sparc3_lightning.evaluation.verdict import Comparison, Findings, verdict
from sparc3_lightning.evaluation.words import notable_words
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.statistics.compare import Change, compare, compare_with_control
from sparc3_lightning.version import RESULTS_FORMAT, package_versions


def experiment_results(run: Run, evaluator: Evaluator, data: dict[str, Any]) -> dict[str, Any]:
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
    control, against = control_figures(run.controls, run.pruned, evaluator)
    manifest = run.score_sets[run.behaviour or next(iter(run.score_sets))].manifest
    return {
        "format_version": RESULTS_FORMAT,
        "base_model": run.base_model,
        "relevance": {**manifest.get("options", {}), "left_out": manifest.get("left_out", [])},
        "selection": _selection(run),
        "baseline": run.baseline.summary(),
        "pruned": run.pruned.summary(),
        "changes": nested(changes),
        "control": control,
        **_second_looks(run),
        "verdict": _verdict(run, changes, against, control, evaluator, data),
        "validation": validation_table(run),
        "data": {"reference_sets": _reference_sets(run), **data},
        "seconds": run.seconds,
        "throughput": throughput(run),
        "versions": package_versions(),
    }


def _second_looks(run: Run) -> dict[str, Any]:
    """Whether scorers agree, and which words changed; None where no toxicity was measured."""
    before, after = (None if found is None else found.toxicity for found in (run.baseline, run.pruned))
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


def control_figures(
    controls: Sequence[Evaluation], pruned: Evaluation, evaluator: Evaluator
) -> tuple[dict[str, Any] | None, dict[str, Change]]:
    """The control: every draw's figures, their mean and spread, and the pruned model against their mean.

    Returns:
        The JSON, and the paired comparison in it; None without a control.
    """
    if not controls:
        return None, {}
    draws = [control.scalars() for control in controls]
    # A figure can be missing in a draw: uniqueness, where all completions are empty.
    names = [name for name in draws[0] if all(name in draw for draw in draws)]
    columns = {name: [draw[name] for draw in draws] for name in names}
    against = compare_with_control(controls, pruned, evaluator.paired_test)
    return {
        "num_draws": len(controls),
        "draws": draws,
        "mean": {name: mean(values) for name, values in columns.items()},
        "sd": {name: stdev(values) if len(values) > 1 else None for name, values in columns.items()},
        "lowest": {name: min(values) for name, values in columns.items()},
        "highest": {name: max(values) for name, values in columns.items()},
        "pruned_against_control": _flat_toxicity(nested(against)),
    }, against


def nested(changes: dict[str, Change]) -> dict[str, Any]:
    """Changes as JSON, by what they are of."""
    found = _by_kind(changes)
    found["perplexity"] = {name: asdict(change) for name, change in found["perplexity"].items()}
    found["toxicity"] = {
        name: {attribute: asdict(change) for attribute, change in of.items()} for name, of in found["toxicity"].items()
    }
    for name in ("uniqueness", "length"):
        found[name] = None if found[name] is None else asdict(found[name])
    return found


def _by_kind(changes: dict[str, Change]) -> dict[str, Any]:
    found: dict[str, Any] = {"perplexity": {}, "toxicity": {}, "uniqueness": None, "length": None}
    for name, change in changes.items():
        kind, _, measure = name.rpartition("/")
        if not kind:
            found[name] = change
        elif kind == "perplexity":
            found[kind][measure] = change
        else:
            found["toxicity"].setdefault(measure, {})[kind] = change
    return found


def _flat_toxicity(found: dict[str, Any]) -> dict[str, Any]:
    perplexity = {"perplexity": found["perplexity"]} if found["perplexity"] else {}
    return {**perplexity, **found["toxicity"]}


def throughput(run: Run) -> dict[str, dict[str, float | None]]:
    """Samples and tokens per second of each reference set, by wall time; padding samples are not counted."""
    rates: dict[str, dict[str, float | None]] = {}
    for name, score_set in run.score_sets.items():
        seconds, data = run.seconds.get(f"attribution: {name}"), score_set.manifest.get("data", {})
        counts = {"samples_per_second": data.get("num_samples"), "tokens_per_second": data.get("num_tokens")}
        rates[name] = {key: count / seconds if count and seconds else None for key, count in counts.items()}
    return rates


def _verdict(
    run: Run,
    changes: dict[str, Change],
    against: dict[str, Change],
    control: dict[str, Any] | None,
    evaluator: Evaluator,
    data: dict[str, Any],
) -> dict[str, Any]:
    assert run.recipe is not None
    assert run.baseline is not None
    assert run.pruned is not None
    toxicity = run.baseline.toxicity
    return verdict(
        Findings(
            changes=Comparison(**_by_kind(changes)),
            against_control=_flat_toxicity(_by_kind(against)),
            control=control,
            attribute=None if toxicity is None else toxicity.main_attribute,
            # With several completions a prompt, the published figure is the worst of them.
            measure="expected_maximum" if toxicity is not None and toxicity.protocol == "rtp" else "mean",
            num_neurons=len(run.recipe.neurons),
            num_empty=(_num_empty(run.baseline), _num_empty(run.pruned)),
            alpha=evaluator.paired_test.alpha,
            overlap_allowed=bool(data.get("allow_overlap")),
        )
    )


def _num_empty(evaluation: Evaluation) -> int:
    return 0 if evaluation.toxicity is None else evaluation.toxicity.num_empty
