"""The validation table: can the scores be trusted, and what do their sums say."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from sparc3_lightning.models.families import get_family
from sparc3_lightning.pruning.circuits import Order
from sparc3_lightning.pruning.select import Scope, first_of, num_neurons_of, rank_neurons
from sparc3_lightning.pruning.select_weights import extreme_weights
from sparc3_lightning.pruning.weight_recipe import AnyRecipe, WeightRecipe
from sparc3_lightning.runs.run import Run
from sparc3_lightning.scoring.combine import Penalty, contrasts, differential, differential_strength, seed_variation
from sparc3_lightning.scoring.lazy import LazyScores, count_scores
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.statistics.p_values import Members, num_common, num_members

_MEANING = {
    "coefficient_of_variation": (
        "How much a neuron's score varies with the seed of the general samples: standard deviation over seeds divided "
        "by mean, averaged over all scores. 0: no variation. None: signed scores average near 0, so have none."
    ),
    "top_overlap": (
        "Share of each seed's own k highest scored neurons that another seed shares, for every pair of seeds. "
        "1: the same neurons; `overlap_by_chance`: what random picks would share."
    ),
    "selection_overlap": (
        "The same for the k neurons that each seed alone would have selected, instead of the mean over the seeds."
    ),
    "length_bias": (
        "A sample's relevance can depend on its length as well as on its content. If `token_ratio` is far from 1, the "
        "sets differ in length, and a neuron can stand out for that alone. `matched_overlap`: share of the neurons "
        "of the recipe that are among the first k (with a screen: among as many as it had candidates) of the contrast "
        "with `matched_sets` alone: samples as long as the behaviour's (`length_like`). None: there is no such set, or "
        "no other."
    ),
    "length_bias_signed": " Signed relevance cancels in its sum, so that `relevance_ratio` says little here.",
    "differential_strength": (
        "(general - behaviour) / general, of the sums over these scores. Above 0: the behaviour's "
        "samples carry less relevance in total than general ones. None: signed sums cancel and give no such figure."
    ),
}


def validation_table(run: Run) -> dict[str, Any]:
    """Every check of the scores of a run, as JSON; what cannot be told is None.

    Args:
        run: A run with its score sets and a recipe.

    Returns:
        `passed` and `problems`; for each set its counts, coverage and relevance per sample; variation over the seeds;
        length bias; differential strength.
    """
    assert run.recipe is not None
    assert run.behaviour is not None
    general, behaviour = [run.score_sets[name] for name in run.general], run.score_sets[run.behaviour]
    sets = {name: _set_row(run, name) for name in run.score_sets}
    # NaN and Inf have no order: then there is no seed's own top k.
    is_finite = not any(sets[name]["num_nan"] + sets[name]["num_inf"] for name in (*run.general, run.behaviour))
    problems = [f"{name}: {problem}" for name, row in sets.items() for problem in _problems(row)]
    return {
        "passed": not problems,
        "problems": problems,
        "sets": sets,
        "differential": None if run.differential is None else dict(count_scores(run.differential.scores)),
        "seed_variation": _seed_variation(run, general, behaviour, run.recipe) if is_finite else None,
        "length_bias": _length_bias([sets[name] for name in run.general], sets[run.behaviour], run.recipe)
        | _length_matched(run, behaviour, run.recipe, is_finite),
        "differential_strength": {
            "value": _finite(differential_strength(general, behaviour)),
            "scope": _scope(behaviour),
            "meaning": _MEANING["differential_strength"],
        },
    }


def _meaning(key: str, recipe: AnyRecipe) -> str:
    return _MEANING[key].replace("neuron", recipe.what.removesuffix("s"))


def _set_row(run: Run, name: str) -> dict[str, Any]:
    score_set = run.score_sets[name]
    data, options = score_set.manifest.get("data", {}), score_set.manifest.get("options")
    num_samples, num_tokens = data.get("num_samples"), data.get("num_tokens")
    behaviours = [run.behaviour] if run.aim is None else [*run.aim.behaviours]
    contrasted = [*run.general, *([] if run.aim is None else run.aim.others)]
    role = "general" if name in contrasted else "behaviour" if name in behaviours else "not used"
    return {
        "role": role,
        **count_scores(score_set.scores),
        "sign": None if options is None else options["sign"],
        "num_modules_expected": len(run.expected_modules),
        "modules_missing": sorted(set(run.expected_modules) - set(score_set.scores)),
        "modules_not_expected": sorted(set(score_set.scores) - set(run.expected_modules)),
        "num_samples": num_samples,
        "num_tokens": num_tokens,
        "tokens_per_sample": num_tokens / num_samples if num_tokens and num_samples else None,
        "relevance_per_sample": _finite(score_set.total),
    }


def _problems(row: dict[str, Any]) -> list[str]:
    found = [f"{row[key]} scores are {what}" for key, what in (("num_nan", "NaN"), ("num_inf", "Inf")) if row[key]]
    if row["sign"] == "abs" and row["num_negative"]:
        found.append(f"{row['num_negative']} scores are negative, which `abs` scores cannot be")
    if row["modules_missing"]:
        found.append(f"layers without scores: {', '.join(row['modules_missing'])}")
    if row["modules_not_expected"]:
        found.append(f"scores of layers that were not asked for: {', '.join(row['modules_not_expected'])}")
    return found


def _seed_variation(
    run: Run, general: Sequence[ScoreSet], behaviour: ScoreSet, recipe: AnyRecipe
) -> dict[str, Any] | None:
    if len(general) < 2:
        return None
    k, made = recipe.num, _contrasts(run, general, behaviour, recipe)
    top = {name: _top(score_set, recipe) for name, score_set in zip(run.general, general, strict=True)}
    own = {name: _own_selection(made, general, place, behaviour, recipe) for place, name in enumerate(run.general)}
    return {
        "num_seeds": len(general),
        "coefficient_of_variation": _finite(seed_variation(general, made)),
        "k": k,
        "top_overlap": pairwise_overlap(top),
        "selection_overlap": pairwise_overlap(own),
        "overlap_by_chance": k / _num_competing(behaviour, recipe),
        "meaning": {
            key: _meaning(key, recipe) for key in ("coefficient_of_variation", "top_overlap", "selection_overlap")
        },
    }


def _num_competing(behaviour: ScoreSet, recipe: AnyRecipe) -> int:
    """Neurons, or weights, that a selection is made of."""
    if isinstance(recipe, WeightRecipe):
        return recipe.num_scored
    return num_neurons_of(behaviour)


def pairwise_overlap(chosen: Mapping[str, Members]) -> dict[str, Any]:
    """Share of common members of every two sets of one size, and its mean.

    Returns:
        `pairs` by "first / second", and `mean`.
    """
    pairs = {
        f"{first} / {second}": _share_common(chosen[first], chosen[second]) for first, second in combinations(chosen, 2)
    }
    return {"mean": sum(pairs.values()) / len(pairs), "pairs": pairs}


def _share_common(first: Members, second: Members) -> float:
    """Share of the first's members that the second has too."""
    return num_common(first, second) / num_members(first)


def _top(score_set: ScoreSet, recipe: AnyRecipe) -> Members:
    """As many neurons, or weights, as the recipe's with the highest scores; ties go to the lower (layer, index)."""
    if isinstance(recipe, WeightRecipe):
        return _extreme_weights(score_set, recipe, "highest")
    return first_of(rank_neurons(score_set, highest_first=True), recipe.num)


def _extreme_weights(
    scores: ScoreSet, recipe: WeightRecipe, order: Order = "lowest", share: float | None = None
) -> Members:
    """As many weights as the recipe's, or a share, by other scores."""
    share, scope = share or recipe.num / recipe.num_scored, recipe.options.get("scope", "global")
    return dict(extreme_weights(scores, share, scope, order))


def _penalty(recipe: AnyRecipe) -> tuple[float, Penalty]:
    return recipe.options.get("general_weight", 1.0), recipe.options.get("general_penalty", "raw")


def _contrasts(run: Run, general: Sequence[ScoreSet], behaviour: ScoreSet, recipe: AnyRecipe) -> LazyScores:
    """The differential with how its general sets differ: of weights as the run has made it, which is not made again."""
    made = None if run.differential is None else run.differential.scores
    if isinstance(made, LazyScores) and all(summary.seeds is not None for summary in made.known.values()):
        return made
    return contrasts(general, behaviour, *_penalty(recipe))


def _own_selection(
    made: LazyScores, general: Sequence[ScoreSet], place: int, behaviour: ScoreSet, recipe: AnyRecipe
) -> Members:
    """What would have been selected with this general set alone, with the recipe's options."""
    if isinstance(recipe, WeightRecipe):
        return _extreme_weights(differential(general[place], behaviour, *_penalty(recipe)), recipe)
    rows = {}
    for name in _neuron_modules(behaviour):
        seeds = made.summary(name).seeds
        assert seeds is not None
        rows[name] = seeds.own_rows[place]
    scope: Scope = recipe.options.get("scope", "global")
    return first_of(rank_neurons(ScoreSet(rows, behaviour.manifest), scope), recipe.num)


def _neuron_modules(score_set: ScoreSet) -> list[str]:
    family = get_family(score_set.manifest["base_model"]["model_type"])
    return [name for name in score_set.scores if family.layer_of(name) is not None]


def _length_bias(general: Sequence[dict[str, Any]], behaviour: dict[str, Any], recipe: AnyRecipe) -> dict[str, Any]:
    def mean(key: str) -> float | None:
        values = [row[key] for row in general]
        return None if None in values else sum(values) / len(values)

    figures = {"relevance": "relevance_per_sample", "tokens": "tokens_per_sample"}
    means = {name: mean(key) for name, key in figures.items()}
    signed = _MEANING["length_bias_signed"] if behaviour["sign"] == "signed" else ""
    return {
        "general_relevance_per_sample": means["relevance"],
        "behaviour_relevance_per_sample": behaviour["relevance_per_sample"],
        "relevance_ratio": _ratio(behaviour["relevance_per_sample"], means["relevance"]),
        "general_tokens_per_sample": means["tokens"],
        "behaviour_tokens_per_sample": behaviour["tokens_per_sample"],
        "token_ratio": _ratio(behaviour["tokens_per_sample"], means["tokens"]),
        "meaning": _meaning("length_bias", recipe) + signed,
    }


def _length_matched(run: Run, behaviour: ScoreSet, recipe: AnyRecipe, is_finite: bool) -> dict[str, Any]:
    """How much of the selection stays where length cannot be what tells the sets apart."""

    def lengths_of(score_set: ScoreSet) -> Any:
        return score_set.manifest.get("data", {}).get("source", {}).get("length_like")

    matched = {name: one for name, one in run.score_sets.items() if lengths_of(one) == run.behaviour}
    overlap, others = None, {*run.general} - matched.keys()
    if matched and others and is_finite and all(map(math.isfinite, (one.total for one in matched.values()))):
        contrast = differential([*matched.values()], behaviour, *_penalty(recipe))
        overlap = _share_common(recipe.per_layer(), _candidates(contrast, recipe))
    return {"matched_sets": [*matched], "matched_overlap": overlap}


def _candidates(contrast: ScoreSet, recipe: AnyRecipe) -> Members:
    """What would have been selected by another contrast: with a screen, what it would have had as candidates."""
    screen = recipe.options.get("screen")
    if isinstance(recipe, WeightRecipe):
        return _extreme_weights(contrast, recipe, share=recipe.options["sparsity"] if screen else None)
    num = screen["num_candidates"] if screen else recipe.num
    return first_of(rank_neurons(contrast, recipe.options.get("scope", "global")), num)


def _scope(score_set: ScoreSet) -> str:
    options = score_set.manifest.get("options")
    how = "" if options is None else f" (modules: {options['modules']}, granularity: {options['granularity']})"
    return f"{score_set.num_scores:,} scores of {len(score_set.scores)} modules{how}"


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
