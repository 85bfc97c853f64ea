"""The tables of the families against transformers' own models."""

import copy
import re

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from sparc3_lightning import attnlrp
from sparc3_lightning.models.families import FAMILIES, get_family
from sparc3_lightning.models.families.layers import out_in, weight_of
from sparc3_lightning.models.load import build_model
from tests.tiny import LAYERS, NEURONS, PARTS, TINY, neuron_modules, tiny_gpt2, tiny_llama


def test_every_family_has_a_tiny_model() -> None:
    missing = set(FAMILIES) - set(TINY)
    assert not missing, f"add tiny models of {missing} to tests/tiny.py: the tests of every family run over them"


@pytest.mark.parametrize("name", sorted(TINY))
def test_table_describes_the_model(name: str) -> None:
    model, family = TINY[name](), get_family(name)
    assert model.config.model_type == family.model_type
    blocks = family.block_modules(model)
    assert len(blocks) == LAYERS
    assert len(family.norms(model)) == sum("Norm" in type(module).__name__ for module in model.modules())
    family.check_linears(model)
    assert (family.num_layers(model.config), family.num_neurons(model.config)) == (LAYERS, NEURONS)
    parts = PARTS[name]
    for block in blocks:
        assert [n for n, m in block.named_modules() if type(m).__name__ in ("Linear", "Conv1D")] == [*parts.linears]
        for row in parts.rows:
            assert weight_of(block.get_submodule(row)).shape == (parts.fused * NEURONS, 16)
        assert weight_of(block.get_submodule(parts.column)).shape == (16, NEURONS)
        assert block.get_submodule(parts.act) is block.get_submodule(family.activation)
        assert hasattr(block.get_submodule(family.attention), "is_causal")
    rows = [(row, part * NEURONS) for row in parts.rows for part in range(parts.fused)]
    assert sorted(family.rows(model.config)) == sorted(rows)
    assert family.down == parts.column
    assert sorted(family.linears) == sorted(parts.linears)


@pytest.mark.parametrize("name", sorted(TINY))
def test_neuron_modules(name: str) -> None:
    model, family = TINY[name](), get_family(name)
    assert family.neuron_modules(model) == neuron_modules(name)
    assert [family.layer_of(module) for module in neuron_modules(name)] == list(range(LAYERS))


def test_a_stored_weight_as_rows_is_a_view() -> None:
    layer = tiny_gpt2().transformer.h[0].mlp.c_fc
    assert layer.weight.shape == (16, NEURONS)
    weight_of(layer)[3] = 7.0
    assert (layer.weight[:, 3] == 7.0).all()
    assert torch.equal(out_in(layer, weight_of(layer)), layer.weight)


def test_neurons_of_gpt2_without_a_number_of_their_own() -> None:
    assert get_family("gpt2").num_neurons(tiny_gpt2(n_inner=None).config) == 64


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "opt", "do_layer_norm_before": False}, "norms after its layers .*OPT-350M"),
        ({"model_type": "opt", "word_embed_proj_dim": 8}, "projected embeddings"),
        ({"model_type": "opt", "_remove_final_layer_norm": True}, "no last norm"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "cross attention"),
        ({"model_type": "gpt2", "reorder_and_upcast_attn": True}, "reorder_and_upcast_attn"),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, "both directions"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "both directions"),
    ],
)
def test_what_a_table_does_not_cover_is_refused_by_name(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=rf"a model of type '{fields['model_type']}' .*{said}.*Set `model\.model`"):
        build_model(fields, vocab_size=48)
    rest = {name: value for name, value in fields.items() if name != "model_type"}
    build = TINY[str(fields["model_type"])]
    with pytest.raises(ValueError, match=said), attnlrp(build(**rest)):
        pass


def test_a_usual_config_is_covered() -> None:
    for name in sorted(FAMILIES):
        get_family(name).check_config(AutoConfig.for_model(name))


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
