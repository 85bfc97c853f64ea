"""The control: as many other neurons of the same layers."""

import pytest

from sparc3_lightning.pruning.recipe import Recipe
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
