"""The tables of the families against transformers' own models."""

import copy
import re

import pytest
import torch
from torch import nn

from sparc3_lightning.families import FAMILIES, get_family
from tests.tiny import LAYERS, NEURONS, TINY, tiny_llama


def test_every_family_has_a_tiny_model() -> None:
    missing = set(FAMILIES) - set(TINY)
    assert not missing, f"add tiny models of {missing} to tests/tiny.py: the tests of every family run over them"


@pytest.mark.parametrize("name", sorted(TINY))
def test_table_describes_the_model(name: str) -> None:
    model, family = TINY[name](), get_family(name)
    assert model.config.model_type == family.model_type
    blocks = family.block_modules(model)
    assert len(blocks) == LAYERS
    assert len(family.norms(model)) == 2 * LAYERS + 1
    family.check_linears(model)
    for block in blocks:
        mlp = block.get_submodule(family.mlp)
        up, down = mlp.get_submodule(family.up), mlp.get_submodule(family.down)
        assert up.weight.shape == (NEURONS, 16)
        assert down.weight.shape == (16, NEURONS)
        assert family.gate is not None
        assert mlp.get_submodule(family.gate).weight.shape == (NEURONS, 16)
        assert not list(mlp.get_submodule(family.activation).parameters())
        assert hasattr(block.get_submodule(family.attention), "q_proj")


@pytest.mark.parametrize("name", sorted(TINY))
def test_neuron_modules(name: str) -> None:
    model, family = TINY[name](), get_family(name)
    names = family.neuron_modules(model)
    assert [family.layer_of(module) for module in names] == list(range(LAYERS))
    assert all(isinstance(model.get_submodule(module), nn.Linear) for module in names)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.gate_proj",
        "model.layers.x.mlp.up_proj",
        "model.layers.0.mlp.up_proj.weight",
        "model-layers.0.mlp.up_proj",
        "other.model.layers.0.mlp.up_proj",
        "lm_head",
    ],
)
def test_other_modules_are_no_neurons(name: str) -> None:
    assert get_family("llama").layer_of(name) is None


def test_layer_numbers_of_two_digits() -> None:
    assert get_family("llama").layer_of("model.layers.31.mlp.up_proj") == 31


def test_unreached() -> None:
    family = get_family("llama")
    for part, cp in (
        ("self_attn.q_proj", True),
        ("self_attn.v_proj", False),
        ("mlp.gate_proj", True),
        ("mlp.up_proj", False),
    ):
        assert family.unreached("cp_lrp", f"model.layers.1.{part}") == cp
        assert not family.unreached("attnlrp", f"model.layers.1.{part}")


def test_unknown_model_type_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=re.escape(str(sorted(FAMILIES))) + ".*got 'bert'.*families/"):
        get_family("bert")


def test_number_of_norms_is_checked() -> None:
    model = tiny_llama()
    model.model.layers[1].input_layernorm = nn.Identity()
    with pytest.raises(ValueError, match="must have 5 LlamaRMSNorm, got 4"):
        get_family("llama").norms(model)


def test_number_of_linear_layers_is_checked() -> None:
    model = tiny_llama()
    model.model.layers[1].mlp.extra = copy.deepcopy(model.model.layers[1].mlp.up_proj)
    with pytest.raises(ValueError, match="must have 15 linear layers, got 16"):
        get_family("llama").check_linears(model)


def test_llama_3_8b_has_225_layers_and_458752_neurons() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=32, num_key_value_heads=8))
    family = get_family("llama")
    family.check_linears(model)
    assert sum(isinstance(module, nn.Linear) for module in model.modules()) == 225
    rows = [model.get_submodule(name).weight.shape[0] for name in family.neuron_modules(model)]
    assert sum(rows) == 458_752
