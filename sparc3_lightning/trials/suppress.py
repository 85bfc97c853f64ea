"""Suppress: the control of a selection, as many random neurons (or single weights) of the same layers."""

import numpy as np
import torch

from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.weight_recipe import AnyRecipe, Integers, WeightRecipe
from sparc3_lightning.trials import CONTROL


def draw_controls(recipe: AnyRecipe, width: int, num_draws: int, seed: int) -> list[AnyRecipe]:
    """The controls: as many neurons from the same layers each, drawn at random among those not selected.

    Of single weights as many from each linear layer.

    Args:
        recipe: What was selected.
        width: Neurons in a layer of the model.
        num_draws: How many controls.
        seed: Of the first draw; draw i uses seed + i.

    Raises:
        ValueError: A layer has too few others.
    """
    seeds = range(seed, seed + num_draws)
    if isinstance(recipe, WeightRecipe):
        return [_weight_control(recipe, one) for one in seeds]
    return [_control(recipe, width, one) for one in seeds]


def _control(recipe: Recipe, width: int, seed: int) -> Recipe:
    assert not recipe.num_dampened, "a run's own selection goes"
    generator = torch.Generator().manual_seed(seed)
    neurons: list[tuple[int, int]] = []
    for layer, indices in recipe.per_layer().items():
        is_other = torch.ones(width, dtype=torch.bool)
        is_other[indices] = False
        others = is_other.nonzero().flatten()
        if len(others) < len(indices):
            raise ValueError(
                f"the control needs {len(indices)} other neurons in layer {layer}, got {len(others)}. "
                "Set a smaller `PruningCallback.init_args.num_neurons`, or 0 "
                "`EvaluationCallback.init_args.num_control_draws`."
            )
        drawn = others[torch.randperm(len(others), generator=generator)[: len(indices)]]
        neurons += [(layer, int(index)) for index in drawn.sort().values]
    return Recipe(neurons, base_model=recipe.base_model, options={"method": CONTROL, "seed": seed})


def _weight_control(recipe: WeightRecipe, seed: int) -> WeightRecipe:
    random, weights = np.random.default_rng(seed), dict[str, Integers]()
    for name, gone in recipe.weights.items():
        rows, columns = recipe.shapes[name]
        num_others = rows * columns - len(gone)
        if num_others < len(gone):
            raise ValueError(
                f"the control needs {len(gone)} other weights in {name}, got {num_others}. Set a smaller "
                "`PruningCallback.init_args.sparsity`, or 0 `EvaluationCallback.init_args.num_control_draws`."
            )
        # The drawn are places among the others: as many of those gone lie below each as have fewer others below.
        drawn = np.sort(random.choice(num_others, len(gone), replace=False, shuffle=False))
        weights[name] = drawn + np.searchsorted(gone - np.arange(len(gone)), drawn, side="right")
    options = {"method": CONTROL, "seed": seed}
    return WeightRecipe(weights, recipe.shapes, base_model=recipe.base_model, options=options)
