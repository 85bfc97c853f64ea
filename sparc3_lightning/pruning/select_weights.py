"""Select the single weights that go, whatever neurons they belong to."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparc3_lightning.models.families import FAMILIES
from sparc3_lightning.pruning.circuits import Contest, Importance, Order
from sparc3_lightning.pruning.masks import check_sparsity
from sparc3_lightning.pruning.select import SCOPES, Scope, behaviours_of
from sparc3_lightning.pruning.weight_recipe import Integers, WeightRecipe
from sparc3_lightning.scoring.lazy import summaries
from sparc3_lightning.scoring.score_set import ScoreSet

SPARSITY_KEY = "`PruningCallback.init_args.sparsity`"


def select_weights(scores: ScoreSet, sparsity: float, scope: Scope = "global") -> WeightRecipe:
    """The share of all weights with the most negative differential score.

    Args:
        scores: Differential scores of weights; or a ranking.
        sparsity: Which share goes, above 0 and below 1; at least one weight does.
        scope: Where scores compete: "global" over all layers, or "layer" (the same share of every decoder block).

    Returns:
        The recipe. Ties go to the first layer in the family's order, and to the lower index.

    Raises:
        ValueError: A share that is none, unknown scope, scores of neurons, or scores that are not finite.

    Source: SparC3 (arXiv 2506.13727), Sec. 3, element by element.
    """
    check_sparsity(sparsity, "sparsity", SPARSITY_KEY)
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {SCOPES}, got {scope!r}. Set `PruningCallback.init_args.scope`.")
    shapes = _shapes(scores)
    for name, summary in summaries(scores.scores).items():
        if summary.num_nan or summary.num_inf:
            raise ValueError(f"`scores` of {name} must be finite, got NaN or Inf: they have no order.")
    recipe = WeightRecipe(
        dict(extreme_weights(scores, sparsity, scope)), shapes, base_model=dict(scores.manifest.get("base_model", {}))
    )
    found: dict[str, object] = {"method": "lrp", **scores.manifest.get("options", {})}
    found |= {**scores.manifest.get("inputs", {}), "sparsity": sparsity, "num_weights": recipe.num, "scope": scope}
    recipe = replace(scored_by(scores, recipe), options=found)
    num_specific = sum(int((values < 0).sum()) for values in recipe.scores.values())
    if num_specific < recipe.num and scores.manifest.get("kind") != "ranking":
        warnings.warn(
            f"only {num_specific:,} of the {recipe.num:,} selected weights are more relevant to "
            f"{behaviours_of(scores)} than in general (differential below 0); choose a smaller `sparsity`.",
            stacklevel=2,
        )
    return recipe


def extreme_weights(
    scores: ScoreSet, share: float, scope: Scope = "global", order: Order = "lowest"
) -> Iterator[tuple[str, Integers]]:
    """The share of the weights whose scores are the lowest, or the highest, one layer after the other.

    Args:
        scores: Of weights; read as they are needed.
        share: Above 0.
        scope: See `select_weights`.
        order: Which.

    Shape: ascending indices row * I + column, (N,) each.
    """
    importance = Importance("", scores, order)
    for names in _competing(scores, scope):
        for name, kept in Contest(importance, names, "global", [share]).keep(share):
            yield name, kept.flatten().nonzero()[:, 0].numpy()


def scored_by(scores: ScoreSet, recipe: WeightRecipe) -> WeightRecipe:
    """The same recipe with a method's scores of its weights; NaN of those that the set holds no score of."""

    def of(name: str, indices: Integers) -> NDArray[Any]:
        if scores.shapes.get(name) != recipe.shapes[name]:
            return np.full(len(indices), np.nan)
        values: Tensor = scores.scores[name].flatten()
        return values.numpy()[indices]

    return replace(recipe, scores={name: of(name, indices) for name, indices in recipe.weights.items()})


def row_scores(scores: ScoreSet, recipe: WeightRecipe) -> list[float]:
    """A method's score of each row that the recipe's weights lie in, in the order of its candidates.

    Of a differential their sum. A ranking has no zero, so that its sum would mostly tell how many they are: their mean.

    Args:
        scores: Of weights, the lowest to go first; NaN comes of those that it holds no score of.
        recipe: Whose weights and rows.
    """
    recipe = recipe.only(recipe.candidates)
    sums = scored_by(scores, recipe).candidate_scores
    if scores.manifest.get("kind") != "ranking":
        return sums
    ones = {name: np.ones(len(indices), np.float32) for name, indices in recipe.weights.items()}
    counts = replace(recipe, scores=ones).candidate_scores
    return [total / count for total, count in zip(sums, counts, strict=True)]


def _competing(scores: ScoreSet, scope: Scope) -> list[list[str]]:
    """Layers whose weights compete with each other."""
    names, family = list(_shapes(scores)), FAMILIES.get(_model_type(scores))
    if scope == "global":
        return [names]
    blocks: dict[object, list[str]] = {}
    for name in names:
        place = None if family is None else family.place_of(name)
        blocks.setdefault(name if place is None else place[0], []).append(name)
    return list(blocks.values())


def _shapes(scores: ScoreSet) -> dict[str, tuple[int, int]]:
    """Shape of every layer whose weights compete, in the family's order: files list them in another."""
    shapes, family = scores.shapes, FAMILIES.get(_model_type(scores))
    for name, shape in shapes.items():
        if len(shape) != 2:
            raise ValueError(
                f"`scores` must hold a score of every weight, got one a row of {name}. Score with "
                "`model.granularity: weight`."
            )
    ordered = shapes if family is None else family.in_order(shapes)
    return {name: (shapes[name][0], shapes[name][1]) for name in ordered}


def _model_type(scores: ScoreSet) -> str:
    return str(scores.manifest.get("base_model", {}).get("model_type"))
