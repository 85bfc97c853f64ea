"""A recipe, of neurons or weights, or masks: applied to shards as to the whole, and restored, bit for bit."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sparc3_lightning.distributed.owners import own_rows
from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.families.layers import weight_of
from sparc3_lightning.models.identity import base_model
from sparc3_lightning.models.sharding import shard_model
from sparc3_lightning.pruning.apply import apply_masks, apply_recipe
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.weight_recipe import WeightRecipe
from sparc3_lightning.scoring.weights import lowest_per_row
from tests.launch import run_distributed
from tests.tiny import tiny_gpt2, tiny_llama

WIDTHS = (24, 21, 9)  # over four ranks: 6 each; 6, 6, 6, 3; and 3, 3, 3, none
UP = "model.layers.0.mlp.up_proj.weight"


def whole_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {
        name: (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.detach()).clone()
        for name, parameter in model.named_parameters()
    }


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def sharded(num_neurons: int) -> PreTrainedModel:
    model = tiny_llama(intermediate_size=num_neurons)
    shard_model(model, init_device_mesh("cpu", (torch.distributed.get_world_size(),)))
    return model


def apply_and_restore(widths: Sequence[int]) -> None:
    ids = torch.tensor([[3, 5, 7, 9]])
    for width in widths:
        whole, model = tiny_llama(intermediate_size=width), sharded(width)
        dense = whole_weights(whole)
        # All in the first rank's rows of one layer; the last row, on the last rank that has any, of the other.
        recipe = Recipe([(0, 0), (0, 1), (1, width - 1)], [-3.0, -2.0, -1.0], base_model(whole), {})
        with torch.no_grad():
            logits = model(ids).logits
        with apply_recipe(model, recipe):
            apply_recipe(whole, recipe)
            assert_same(whole_weights(model), whole_weights(whole))
            with torch.no_grad():
                torch.testing.assert_close(model(ids).logits, whole(ids).logits)
                assert not torch.allclose(model(ids).logits, logits)
            apply_recipe(model, recipe)  # twice changes nothing, and is no other base model
            assert_same(whole_weights(model), whole_weights(whole))
        assert_same(whole_weights(model), dense)
        with torch.no_grad():
            assert torch.equal(model(ids).logits, logits)


def halved(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Masks of this rank's rows, one by one, as compression makes them."""
    for name, layer in get_family(model.config.model_type).block_linears(model).items():
        rows, _ = own_rows(weight_of(layer))
        yield name, lowest_per_row(rows.abs(), 0.5)


def mask_and_restore(widths: Sequence[int]) -> None:
    for width in widths:
        whole, model = tiny_llama(intermediate_size=width), sharded(width)
        dense = whole_weights(whole)
        with apply_masks(model, halved(model)):
            apply_masks(whole, halved(whole))
            assert_same(whole_weights(model), whole_weights(whole))
            assert not torch.equal(whole_weights(model)[UP], dense[UP])
        assert_same(whole_weights(model), dense)


def some_weights(model: PreTrainedModel) -> WeightRecipe:
    """Of every layer some, but of some ranks' rows none: the first and the last row, and one in the middle."""
    layers = get_family(model.config.model_type).linear_modules(model)
    shapes = {name: (weight_of(layer).shape[0], weight_of(layer).shape[1]) for name, layer in layers.items()}
    gone = {
        name: np.unique([0, columns - 1, rows // 2 * columns + 1, rows * columns - 1])
        for name, (rows, columns) in shapes.items()
    }
    return WeightRecipe(gone, shapes, base_model=base_model(model))


def apply_weights_and_restore(widths: Sequence[int]) -> None:
    """GPT-2's layers are sharded by their inputs."""
    for width in widths:
        for build, options in ((tiny_llama, {"intermediate_size": width}), (tiny_gpt2, {"n_inner": width})):
            whole, model = build(**options), build(**options)  # type: ignore[operator]
            shard_model(model, init_device_mesh("cpu", (torch.distributed.get_world_size(),)))
            dense, recipe = whole_weights(whole), some_weights(whole)
            with apply_recipe(model, recipe):
                apply_recipe(whole, recipe)
                assert_same(whole_weights(model), whole_weights(whole))
                apply_recipe(model, recipe)  # twice changes nothing, and is no other base model
                assert_same(whole_weights(model), whole_weights(whole))
            assert_same(whole_weights(model), dense)
            assert not torch.equal(whole_weights(whole)["lm_head.weight"], dense["lm_head.weight"])


def refuse_another_base() -> None:
    recipe = Recipe([(0, 0)], [-1.0], base_model(tiny_llama(seed=1)), {})
    model = sharded(24)
    before = whole_weights(model)
    with pytest.raises(ValueError, match="`recipe` belongs to"):
        apply_recipe(model, recipe)
    assert_same(whole_weights(model), before)


def all_of_it(widths: Sequence[int]) -> None:
    torch.distributed.init_process_group("gloo")
    apply_and_restore(widths)
    mask_and_restore(widths)
    apply_weights_and_restore(widths)
    refuse_another_base()


@pytest.mark.parametrize("world", [2, 4])
def test_shards_even_uneven_and_empty_and_of_another_model(world: int) -> None:
    run_distributed(all_of_it, world, WIDTHS)
