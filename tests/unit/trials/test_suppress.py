"""The control: as many other neurons, or single weights, of the same layers."""

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


def test_control_draws_as_many_other_weights_of_the_same_layers() -> None:
    up, q = "model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj"
    recipe = WeightRecipe({up: np.array([0, 3, 4]), q: np.array([5])}, {q: (2, 3), up: (3, 3), "lm_head": (9, 9)})
    drawn = [control.weights for control in draw_controls(recipe, 4, 60, seed=0)]
    for weights in drawn:
        assert {name: len(indices) for name, indices in weights.items()} == {q: 1, up: 3}
        assert not set(weights[up]) & {0, 3, 4}
        assert not set(weights[q]) & {5}
    assert {int(index) for weights in drawn for index in weights[up]} == {1, 2, 5, 6, 7, 8}, "each of the others"
    assert {int(index) for weights in drawn for index in weights[q]} == {0, 1, 2, 3, 4}
    again = draw_controls(recipe, 4, 1, seed=5)[0]
    assert {name: found.tolist() for name, found in again.weights.items()} == {
        name: found.tolist() for name, found in drawn[5].items()
    }
    assert again.options == {"method": "random", "seed": 5}
    with pytest.raises(ValueError, match=r"the control needs 5 other weights in .*up_proj, got 4.*init_args\.sparsity"):
        draw_controls(WeightRecipe({up: np.arange(5)}, {up: (3, 3)}), 4, 1, 0)
