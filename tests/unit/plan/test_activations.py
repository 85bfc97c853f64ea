"""What the backward pass needs is counted, tensor by tensor."""

import pytest

from sparc3_lightning.plan.activations import checkpointed_bytes, saved_bytes
from tests.unit.plan.count import kept, model_of

MODULES = ["neurons", "all", ["*layers.2.*"], ["*down_proj", "*k_proj"]]


@pytest.mark.parametrize("modules", MODULES, ids=str)
@pytest.mark.parametrize("granularity", ["neuron", "weight"])
def test_activations_are_what_is_counted(modules: str | list[str], granularity: str) -> None:
    """A token's share; beside it lie the rotation's sines and cosines, of all samples and heads together."""
    batch = 4
    model, shape = model_of(hidden_size=64, intermediate_size=160, num_hidden_layers=4, num_attention_heads=8)
    counted = [kept(model, tokens, batch, granularity, modules) for tokens in (64, 128)]
    wanted = [saved_bytes(shape, batch * tokens, shape.attributed(modules), 2) for tokens in (64, 128)]
    rotation = 64 * 2 * shape.head_dim * 2
    assert counted[1] - counted[0] - rotation == pytest.approx(wanted[1] - wanted[0], rel=0.01)


@pytest.mark.parametrize("modules", ["neurons", "all"])
def test_checkpointing_keeps_the_blocks_inputs(modules: str) -> None:
    """What is kept from the forward to the backward pass; then each block keeps for a while what it keeps without."""
    model, shape = model_of(hidden_size=64, intermediate_size=160, num_hidden_layers=6)
    attributed = shape.attributed(modules)
    counted = [kept(model, tokens, 2, "neuron", modules, True) for tokens in (64, 128)]
    block = saved_bytes(shape, 128, attributed, 2) / (shape.layers - 1)
    inputs = [checkpointed_bytes(shape, 2 * tokens, attributed, 2) for tokens in (64, 128)]
    assert counted[1] - counted[0] == pytest.approx(inputs[1] - inputs[0] - block, rel=0.1)


def test_lm_head_alone_needs_one_token() -> None:
    _, shape = model_of()
    assert saved_bytes(shape, 100, shape.attributed("lm_head"), 2) == 0
