"""What `sparc3 inspect` says of a recipe. No torch; arrays only where single weights are named."""

from pathlib import Path
from typing import Any

from sparc3_lightning.pruning.recipe import RECIPE_FILE, WEIGHT_RECIPE_FILE, Recipe, is_of_weights


def recipe_report(path: Path, top: int) -> dict[str, Any]:
    """Base model, options, what goes of each layer, and the first `top` neurons, or rows that were screened."""
    is_weights = is_of_weights(path)
    file = path / (WEIGHT_RECIPE_FILE if is_weights else RECIPE_FILE) if path.is_dir() else path
    return (_of_weights if is_weights else _of_neurons)(file, top)


def _of_neurons(path: Path, top: int) -> dict[str, Any]:
    recipe = Recipe.load(path)
    scores: list[float | None] = list(recipe.scores) or [None] * len(recipe.neurons)
    factors = recipe.factors or [0.0] * len(recipe.neurons)
    measured = recipe.measured or [{} for _ in recipe.neurons]
    return {
        "kind": "recipe",
        "path": str(path),
        "base_model": recipe.base_model,
        "options": recipe.options,
        "num_neurons": len(recipe.neurons),
        "num_dampened": recipe.num_dampened,
        "layers": [{"layer": layer, "count": len(indices)} for layer, indices in recipe.per_layer().items()],
        "top_neurons": [
            {"layer": layer, "index": index, "score": score, "factor": factor, **found}
            for (layer, index), score, factor, found in zip(
                recipe.neurons[:top], scores, factors, measured, strict=False
            )
        ],
    }


def _of_weights(path: Path, top: int) -> dict[str, Any]:
    from sparc3_lightning.pruning.weight_recipe import WeightRecipe

    recipe = WeightRecipe.load(path)
    return {
        "kind": "recipe of weights",
        "path": str(path),
        "base_model": recipe.base_model,
        "options": recipe.options,
        "num_weights": recipe.num,
        "num_weights_scored": recipe.num_scored,
        "parts": recipe.parts(),
        "top_rows": recipe.to_json()["rows"][:top],
    }
