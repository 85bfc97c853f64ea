"""Suppress: the control of a selection, as many random neurons (or single weights) of the same layers."""

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch

from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.weight_recipe import AnyRecipe, Integers, WeightRecipe
from sparc3_lightning.trials import CONTROL


def draw_controls(recipe: AnyRecipe, width: int, num_draws: int, seed: int) -> list[AnyRecipe]:
    """The controls: as many neurons from the same layers each, drawn at random among those not selected.

    Of single weights, for each row that loses some, as many at random columns of another random row of the same layer:
    those of one row act together, so that as many scattered ones would be too easy a control.

    Args:
        recipe: What was selected.
        width: Neurons in a layer of the model.
        num_draws: How many controls.
        seed: Of the first draw; draw i uses seed + i.

    Raises:
        ValueError: A layer, or its rows, have too few others.
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
    random = np.random.default_rng(seed)
    weights = {name: _others(random, name, gone, recipe.shapes[name]) for name, gone in recipe.weights.items()}
    options = {"method": CONTROL, "seed": seed}
    return WeightRecipe(weights, recipe.shapes, base_model=recipe.base_model, options=options)


def _others(random: np.random.Generator, name: str, gone: Integers, shape: tuple[int, int]) -> Integers:
    """For each row that loses weights as many others, at random columns of another random row.

    Shape: gone and what comes (N,), ascending indices row * I + column.
    """
    num_gone = np.bincount(gone // shape[1], minlength=shape[0])
    num_left = shape[1] - num_gone
    # Places among the others: row after row, without what is gone.
    starts = np.cumsum(num_left) - num_left
    drawn = np.sort(
        np.concatenate(
            [
                starts[row] + random.choice(num_left[row], number, replace=False, shuffle=False)
                for row, number in _drawn_rows(random, name, num_gone, num_left)
            ]
        )
    )
    # As many of those gone lie below each as have fewer others below.
    return cast("Integers", drawn + np.searchsorted(gone - np.arange(len(gone)), drawn, side="right"))


def _drawn_rows(
    random: np.random.Generator, name: str, num_gone: Integers, num_left: Integers
) -> Iterator[tuple[int, int]]:
    """Different random rows, and how many weights each gives: as many as one that loses some.

    The row that loses most draws first, among all that have as many left: so none is left without if there is a way.
    """
    open_rows, waiting = list[int](), np.argsort(num_left, kind="stable").tolist()
    for number in sorted(num_gone[num_gone > 0].tolist(), reverse=True):
        while waiting and num_left[waiting[-1]] >= number:
            open_rows.append(waiting.pop())
        if not open_rows:
            raise ValueError(
                f"the control needs {number} other weights in one row of {name}, got none with as many. Set a smaller "
                "`PruningCallback.init_args.sparsity`, or 0 `EvaluationCallback.init_args.num_control_draws`."
            )
        place = int(random.integers(len(open_rows)))
        open_rows[place], open_rows[-1] = open_rows[-1], open_rows[place]
        yield open_rows.pop(), number
