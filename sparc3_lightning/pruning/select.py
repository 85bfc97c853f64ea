"""Select the neurons that go."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparc3_lightning.models.families import FAMILIES, Family
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.scoring.score_set import ScoreSet

Scope = Literal["global", "layer"]
SCOPES: tuple[str, ...] = ("global", "layer")


def neuron_scores(scores: ScoreSet) -> dict[int, Tensor]:
    """Scores of the neurons of each layer: row sums where the set holds weights.

    Shape: each tensor (F,), float64.

    Raises:
        ValueError: The set holds no neuron module, or scores that are not finite.
    """
    layers: dict[int, Tensor] = {}
    for layer, name in neuron_modules(scores).items():
        layers[layer] = scores.summary(name).rows[_rows(scores)]
        if not layers[layer].isfinite().all():
            raise ValueError(f"`scores` of {name} must be finite, got NaN or Inf: they have no order.")
    return layers


def scores_of(scores: ScoreSet, neurons: Sequence[tuple[int, int]]) -> list[float]:
    """Scores of some neurons, pairs (layer, index), in their order; NaN of those that the set holds no score of.

    Raises:
        ValueError: See `neuron_scores`.
    """
    layers = neuron_scores(scores)
    return [
        layers[layer][index].item() if layer in layers and index < len(layers[layer]) else math.nan
        for layer, index in neurons
    ]


def neuron_modules(scores: ScoreSet) -> dict[int, str]:
    """Name of the neuron module of each layer, in order.

    Raises:
        ValueError: The set holds none.
    """
    model_type = scores.manifest.get("base_model", {}).get("model_type")
    families = [FAMILIES[model_type]] if model_type in FAMILIES else list(FAMILIES.values())
    layers = {layer: name for name in scores.shapes if (layer := _layer_of(families, name)) is not None}
    if not layers:
        raise ValueError(
            f"`scores` must hold neuron modules such as {families[0].neuron_module(0)!r}, got "
            f"{list(scores.shapes)[:3]}. Score with `model.modules: neurons` or `all`."
        )
    return dict(sorted(layers.items()))


def num_neurons_of(scores: ScoreSet) -> int:
    """Neurons that the set has scores of; nothing is read."""
    return sum(len(range(scores.shapes[name][0])[_rows(scores)]) for name in neuron_modules(scores).values())


def _rows(scores: ScoreSet) -> slice:
    base_model = scores.manifest.get("base_model", {})
    family = FAMILIES.get(str(base_model.get("model_type")))
    return slice(None) if family is None else family.neuron_rows(base_model)


def _layer_of(families: list[Family], name: str) -> int | None:
    return next((layer for family in families if (layer := family.layer_of(name)) is not None), None)


def rank_neurons(
    scores: ScoreSet, scope: Scope = "global", highest_first: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """All neurons in the order in which they would go: most negative first, or `highest_first`.

    Ties are broken by (layer, index). With scope "layer" every layer gives its first neuron before any gives
    its second, and so on: k neurons are spread over the layers as evenly as k allows.

    Returns:
        Layers, indices and scores, each (N,), over all N neurons.
    """
    layers = neuron_scores(scores)
    layer = torch.cat([torch.full((score.numel(),), number) for number, score in layers.items()])
    index = torch.cat([torch.arange(score.numel()) for score in layers.values()])
    score = torch.cat(list(layers.values()))
    order = torch.sort(score, stable=True, descending=highest_first).indices
    if scope == "layer":
        ranks = [values.argsort(stable=True, descending=highest_first).argsort() for values in layers.values()]
        rank = torch.cat(ranks)
        order = order[torch.sort(rank[order], stable=True).indices]
    return layer[order], index[order], score[order]


def first_of(ranking: tuple[Tensor, Tensor, Tensor], k: int) -> dict[int, NDArray[np.integer[Any]]]:
    """The first k neurons of a ranking, by layer."""
    layers, indices = ranking[0][:k].numpy(), ranking[1][:k].numpy()
    return {layer: indices[layers == layer] for layer in np.unique(layers).tolist()}


def select_neurons(scores: ScoreSet, num_neurons: int = 100, scope: Scope = "global") -> Recipe:
    """The `num_neurons` neurons with the most negative differential score.

    Args:
        scores: Differential scores, per neuron or per weight (then a neuron's score is its row sum); or a ranking.
        num_neurons: How many go.
        scope: Where scores compete: "global" over all layers, or "layer" (as many from each layer as k allows).

    Returns:
        The recipe, most negative neuron first; ties go to the lower (layer, index).

    Raises:
        ValueError: Number out of range, unknown scope, or no neuron modules in `scores`.

    Source: SparC3 (arXiv 2506.13727), Sec. 3; method.md, section 2.
    """
    recipe = _first_neurons(scores, num_neurons, scope, "num_neurons")
    _warn_of_general(recipe, scores, num_neurons, "selected neurons")
    return recipe


def select_candidates(scores: ScoreSet, num_candidates: int, num_neurons: int, scope: Scope = "global") -> Recipe:
    """The neurons that a screen is to remove one at a time, to choose among; otherwise as `select_neurons`.

    A candidate that is not below 0 does no harm: what removing it does decides. So a warning comes only where fewer
    are below 0 than may be chosen.

    Args:
        scores: Differential scores.
        num_candidates: How many are removed alone.
        num_neurons: How many of them may be chosen.
        scope: Where scores compete.
    """
    recipe = _first_neurons(scores, num_candidates, scope, "screen.num_candidates")
    _warn_of_general(recipe, scores, num_neurons, "candidates of the screen")
    return recipe


def _warn_of_general(recipe: Recipe, scores: ScoreSet, num_neurons: int, what: str) -> None:
    """Say that fewer neurons than may go are specific to the behaviour; a ranking has no zero."""
    num_specific = sum(value < 0 for value in recipe.scores)
    if num_specific < num_neurons and scores.manifest.get("kind") != "ranking":
        warnings.warn(
            f"only {num_specific} of the {recipe.num} {what} are more relevant to {behaviours_of(scores)} than in "
            "general (differential below 0); choose a smaller `num_neurons`.",
            stacklevel=3,
        )


def _first_neurons(scores: ScoreSet, num_neurons: int, scope: Scope, option: str) -> Recipe:
    """The neurons with the most negative scores, as a recipe; `option` is what messages call their number."""
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {SCOPES}, got {scope!r}. Set `PruningCallback.init_args.scope`.")
    layer, index, score = rank_neurons(scores, scope)
    check_num_neurons(num_neurons, len(score), option)
    chosen = sorted(zip(score[:num_neurons].tolist(), layer.tolist(), index.tolist(), strict=False))
    return Recipe(
        neurons=[(number, position) for _, number, position in chosen],
        scores=[value for value, _, _ in chosen],
        base_model=dict(scores.manifest.get("base_model", {})),
        options=_options(scores, num_neurons, scope),
    )


def with_own_factors(recipe: Recipe) -> Recipe:
    """AurA: each neuron that `auroc` has ranked is dampened by 1 - 2 (AUROC - 0.5); those of at most 0.5 are left out.

    The factor acts on the neuron's contribution, column i of down.

    Args:
        recipe: Neurons with `auroc`'s scores, 0.5 - AUROC.

    Raises:
        ValueError: Another method's, or no neuron above 0.5.

    Source: Suau et al., ICML 2024 (AurA), Sec. 3; there on the outputs of linear layers.
    """
    if recipe.options.get("method") != "auroc":
        raise ValueError(
            f"factors of their own need neurons ranked by 'auroc', got {recipe.options.get('method')!r}. Set `methods`."
        )
    kept = [place for place, score in enumerate(recipe.scores) if score < 0]
    if not kept:
        raise ValueError(f"factors of their own need a neuron of AUROC above 0.5, got {len(recipe.scores)} below.")
    return replace(
        recipe,
        neurons=[recipe.neurons[place] for place in kept],
        scores=[recipe.scores[place] for place in kept],
        factors=[max(0.0, 1.0 + 2.0 * recipe.scores[place]) for place in kept],
    )


def check_num_neurons(num_neurons: int, total: int, option: str = "num_neurons") -> None:
    """Refuse to select more neurons than there are, or none.

    Raises:
        ValueError: That.
    """
    if not 1 <= num_neurons <= total:
        raise ValueError(
            f"`{option}` must be between 1 and {total}, got {num_neurons}. Set `PruningCallback.init_args.{option}`."
        )


def behaviours_of(scores: ScoreSet) -> str:
    """What a differential is of, for messages: of several, each may be short of neurons."""
    told = scores.manifest.get("inputs", {})
    found = told.get("behaviour")
    names = [f"`{one['name']}`" for one in (found if isinstance(found, list) else [found]) if one and "name" in one]
    kind = f" ({told['recipe']})" if "recipe" in told else ""
    return f"{' and '.join(names) or 'the behaviour'}{kind}"


def _options(scores: ScoreSet, num_neurons: int, scope: str) -> dict[str, object]:
    options: dict[str, object] = {"num_neurons": num_neurons, "scope": scope, "method": "lrp"}
    options.update(scores.manifest.get("options", {}))
    options.update(scores.manifest.get("inputs", {}))
    return options
