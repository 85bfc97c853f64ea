"""Suppress: the control of a selection, as many random neurons of the same layers."""

import torch

from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.trials import CONTROL


def draw_controls(recipe: Recipe, width: int, num_draws: int, seed: int) -> list[Recipe]:
    """The controls: as many neurons from the same layers each, drawn at random among those not selected.

    Args:
        recipe: What was selected.
        width: Neurons in a layer of the model.
        num_draws: How many controls.
        seed: Of the first draw; draw i uses seed + i.

    Raises:
        ValueError: A layer has too few other neurons.
    """
    return [_control(recipe, width, seed + draw) for draw in range(num_draws)]


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
