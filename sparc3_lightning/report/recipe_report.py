"""What `sparc3 inspect` says of a recipe. No torch; arrays only where single weights are named."""

from pathlib import Path
from typing import Any

from sparc3_lightning.files import read_json
from sparc3_lightning.pruning.recipe import NEURONS, RECIPE_FILE, WEIGHT_RECIPE_FILE, WEIGHTS, Recipe, is_of_weights


def recipe_report(path: Path, top: int) -> dict[str, Any]:
    """Base model, options, what goes of each layer, and the first `top` neurons, or rows that were screened."""
    is_weights = is_of_weights(path)
    file = path / (WEIGHT_RECIPE_FILE if is_weights else RECIPE_FILE) if path.is_dir() else path
    return (_of_weights if is_weights else _of_neurons)(file, top)


def recipe_sizes(recipes: Path) -> dict[str, dict[str, int]]:
    """How many neurons or weights each of several recipes names, by its own name; no indices of weights are read.

    Args:
        recipes: The directory that holds each in its own.

    Raises:
        ValueError: One is damaged; names the file.
    """
    found = {}
    for what, file in ((NEURONS, RECIPE_FILE), (WEIGHTS, WEIGHT_RECIPE_FILE)):
        for path in sorted(recipes.glob(f"*/{file}")):
            content, key = read_json(path, "recipe"), f"num_{what}"
            if not isinstance(content, dict) or not isinstance(content.get(key), int):
                raise ValueError(f"{path} is no recipe: it has no whole number as `{key}`.")
            found[path.parent.name] = {key: content[key]}
    return found


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
