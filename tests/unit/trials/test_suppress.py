"""The control: as many other neurons, or single weights, of the same layers."""

from collections import Counter

import numpy as np
import pytest

from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.weight_recipe import WeightRecipe
from sparc3_lightning.trials.suppress import draw_controls


def test_control_draws_as_many_other_neurons_of_the_same_layers() -> None:
    recipe = Recipe([(1, 3), (0, 2), (1, 0)], [-3.0, -2.0, -1.0])
    drawn = [control.neurons for control in draw_controls(recipe, 4, 20, seed=0)]
    for neurons in drawn:
        assert sorted(layer for layer, _ in neurons) == [0, 1, 1]
        assert len(set(neurons)) == 3
        assert not set(neurons) & set(recipe.neurons)
    assert {neuron for neurons in drawn for neuron in neurons} == {(0, 0), (0, 1), (0, 3), (1, 1), (1, 2)}
    assert [control.neurons for control in draw_controls(recipe, 4, 3, seed=5)] == drawn[5:8]
    with pytest.raises(ValueError, match="the control needs 2 other neurons in layer 1, got 1"):
        draw_controls(Recipe([(1, 0), (1, 1)]), 3, 1, 0)


UP, Q = "model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj"


def by_row(recipe: WeightRecipe, name: str) -> dict[int, int]:
    """How many weights each row of a layer loses."""
    return dict(Counter((recipe.weights[name] // recipe.shapes[name][1]).tolist()))


def test_control_draws_as_many_other_weights_of_as_many_rows() -> None:
    recipe = WeightRecipe({UP: np.array([0, 3, 4]), Q: np.array([5])}, {Q: (2, 3), UP: (3, 3), "lm_head": (9, 9)})
    drawn = draw_controls(recipe, 4, 60, seed=0)
    for control in drawn:
        assert not set(control.weights[UP]) & {0, 3, 4}
        assert not set(control.weights[Q]) & {5}
        assert sorted(by_row(control, UP).values()) == [1, 2], "a row's cluster stays one"
        assert sorted(by_row(control, Q).values()) == [1]
    assert {int(index) for control in drawn for index in control.weights[UP]} == {1, 2, 5, 6, 7, 8}, (
        "each of the others"
    )
    assert {int(index) for control in drawn for index in control.weights[Q]} == {0, 1, 2, 3, 4}
    again = draw_controls(recipe, 4, 1, seed=5)[0]
    assert {name: found.tolist() for name, found in again.weights.items()} == {
        name: found.tolist() for name, found in drawn[5].weights.items()
    }
    assert again.options == {"method": "random", "seed": 5}


def test_clusters_of_rows_are_not_scattered() -> None:
    gone = np.concatenate([row * 500 + np.arange(number) for row, number in ((3, 40), (70, 25), (71, 1))])
    recipe = WeightRecipe({UP: gone}, {UP: (300, 500)})
    drawn = draw_controls(recipe, 4, 20, seed=0)
    assert all(sorted(by_row(control, UP).values()) == [1, 25, 40] for control in drawn)
    assert len({row for control in drawn for row in by_row(control, UP)}) > 40, "of any row"
    columns = np.concatenate([control.weights[UP] % 500 for control in drawn])
    assert 200 < columns.mean() < 300, "at any column"


def test_every_row_finds_another_while_there_is_one() -> None:
    """Row 0 loses 3 of 4: only row 2 has as many left; those of rows 1 and 3 must not take it."""
    recipe = WeightRecipe({UP: np.array([0, 1, 2, 4, 5, 12, 13])}, {UP: (4, 4)})
    for control in draw_controls(recipe, 4, 20, seed=0):
        assert by_row(control, UP)[2] == 3
        assert sorted(by_row(control, UP)) == [1, 2, 3]
    with pytest.raises(
        ValueError, match=r"needs 3 other weights in one row of .*up_proj, got none.*init_args\.sparsity"
    ):
        draw_controls(WeightRecipe({UP: np.array([0, 1, 2, 4, 5, 6])}, {UP: (3, 4)}), 4, 1, 0)
