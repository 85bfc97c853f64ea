"""The closed forms know every parameter and layer that transformers builds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sparc3_lightning.lrp.modules import select_modules
from sparc3_lightning.plan.measured import LLAMA_3_8B
from sparc3_lightning.plan.shape import Linear, Shape, shape_of
from tests.runs import ROOT
from tests.tiny import GATED, SHAPE, TINY, tiny_gpt2, tiny_opt

SHAPES = sorted((ROOT / "configs" / "shapes").glob("*.json"))
VARIANTS: list[dict[str, Any]] = [
    {"model_type": "llama"},
    {"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 4},
    {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 10},
    {"model_type": "mistral", "head_dim": 6},
    {"model_type": "qwen2", "tie_word_embeddings": True},
]


def on_meta(fields: dict[str, Any]) -> PreTrainedModel:
    """The model that transformers builds of a config, without its memory."""
    rest = {key: value for key, value in fields.items() if key != "model_type"}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(fields["model_type"], **rest))


def num_parameters(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def linears(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name: (module.out_features, module.in_features) for name, module in found.items()}


def as_dict(found: list[Linear]) -> dict[str, tuple[int, int]]:
    return {linear.name: (linear.num_out, linear.num_in) for linear in found}


def check(shape: Shape, model: PreTrainedModel) -> None:
    assert shape.num_parameters == num_parameters(model)
    assert list(as_dict(shape.linears).items()) == list(linears(model).items()), "names, sizes, order"


@pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)
def test_published_shapes(path: Path) -> None:
    fields = json.loads(path.read_text())
    check(shape_of(fields), on_meta(fields))


def test_llama3_8b() -> None:
    fields = json.loads((ROOT / "configs/shapes/llama3_8b.json").read_text())
    assert {name: fields[name] for name in LLAMA_3_8B} == LLAMA_3_8B
    shape = shape_of(json.loads((ROOT / "configs/shapes/llama3_8b.json").read_text()))
    assert shape.num_parameters == 8_030_261_248
    assert len(shape.attributed("all")) == 225
    assert sum(linear.numel for linear in shape.attributed("all")) == 7_504_658_432
    assert sum(linear.num_out for linear in shape.attributed("neurons")) == 458_752


@pytest.mark.parametrize("fields", VARIANTS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_every_family_and_option(fields: dict[str, Any]) -> None:
    fields = {**SHAPE, **fields}
    check(shape_of(fields), on_meta(fields))


@pytest.mark.parametrize("name", ["stories260K", "realtext_lm"])
def test_fixtures(name: str, fixtures: Path) -> None:
    fields = json.loads((fixtures / name / "config.json").read_text())
    check(shape_of(fields), on_meta({key: fields[key] for key in fields if key not in ("dtype", "architectures")}))


@pytest.mark.parametrize("family", GATED)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("modules", ["neurons", "all", "*.down_proj", ["re:.*layers.1.*_proj", "*.0.*q_proj"]])
def test_same_layers_as_an_attribution(family: str, tied: bool, modules: str | list[str]) -> None:
    model = TINY[family](tie_word_embeddings=tied)
    names = [linear.name for linear in shape_of(model.config.to_dict()).attributed(modules)]
    assert names == select_modules(model, modules)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "model_type"),
        (tiny_gpt2().config.to_dict(), "`model_type` must be one whose blocks .*LLaMA's, got 'gpt2' in here"),
        (tiny_opt().config.to_dict(), "LLaMA's, got 'opt' in here"),
        ({"hidden_size": None}, "`hidden_size` must be a whole number above 0 in here, got None"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"model_type": "qwen2", "num_key_value_heads": None}, "num_key_value_heads"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shape_of({"model_type": "llama", **SHAPE, **change}, "here")


@pytest.mark.parametrize("modules", ["lm_head", "*nothing*"])
def test_modules_that_are_not_there(modules: str) -> None:
    shape = shape_of({"model_type": "llama", **SHAPE, "tie_word_embeddings": True})
    with pytest.raises(ValueError, match=r"model\.modules"):
        shape.attributed(modules)
