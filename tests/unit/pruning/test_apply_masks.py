"""Masks applied and restored, bit for bit, whatever happens in between."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning.models.families import get_family
from sparc3_lightning.pruning.apply import apply_masks
from sparc3_lightning.pruning.masks import mask_of
from tests.tiny import TINY, neuron_modules, rows_of, tiny_llama

NAME = "model.layers.0.mlp.up_proj"


def bits(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.clone().contiguous().view(torch.uint8) for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def masks(model: PreTrainedModel, sparsity: float = 0.5) -> dict[str, Tensor]:
    family = model.config.model_type
    weights = {
        name: rows_of(family, name, layer.weight)
        for name, layer in get_family(model.config.model_type).block_linears(model).items()
    }
    return {name: mask_of(weight.abs(), sparsity) for name, weight in weights.items()}


@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zeroed_and_restored(family: str, dtype: torch.dtype) -> None:
    model = TINY[family](dtype=dtype)
    with torch.no_grad():
        model.get_submodule(neuron_modules(family)[0]).weight[0, :2] = -0.0  # its sign comes back too
    before, what = bits(model), masks(model)
    with apply_masks(model, what):
        for name, layer in get_family(model.config.model_type).block_linears(model).items():
            weight, kept = (rows_of(family, name, w) for w in (layer.weight, before[f"{name}.weight"].view(dtype)))
            assert not weight[what[name]].any()
            assert torch.equal(weight[~what[name]], kept[~what[name]])
        assert torch.equal(model.lm_head.weight.view(torch.uint8), before["lm_head.weight"])
        assert not same(bits(model), before)
    assert same(bits(model), before)


def test_without_with_it_is_for_good_until_restored() -> None:
    model = tiny_llama()
    before = bits(model)
    applied = apply_masks(model, masks(model).items())
    compressed = bits(model)
    assert not same(compressed, before)
    apply_masks(model, masks(model))  # what is zero already is the lowest
    assert same(bits(model), compressed)
    applied.restore()
    applied.restore()
    assert same(bits(model), before)


def test_every_linear_layer_but_lm_head() -> None:
    assert len(get_family("llama").block_linears(tiny_llama())) == 14
    assert not [name for name in get_family("llama").block_linears(tiny_llama()) if "lm_head" in name]


def failing(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    yield from list(masks(model).items())[:3]
    raise RuntimeError("in the middle")


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = tiny_llama()
    before = bits(model)
    with pytest.raises(RuntimeError, match="in the middle"):
        apply_masks(model, failing(model))
    assert same(bits(model), before)
    with pytest.raises(RuntimeError, match="inside"), apply_masks(model, masks(model)):
        raise RuntimeError("inside")
    assert same(bits(model), before)
    mask = masks(model)[NAME]
    for wrong, said in (
        ({NAME: mask, "model.norm": mask}, "must name linear layers of the model, got 'model.norm'"),
        ({NAME: mask, "model.no": mask}, "must name linear layers of the model, got 'model.no'"),
        ({NAME: mask.T}, r"must be bool of shape \(24, 16\), got torch.bool of \(16, 24\)"),
        ({NAME: mask.float()}, r"must be bool of shape \(24, 16\), got torch.float32"),
    ):
        with pytest.raises(ValueError, match=said):
            apply_masks(model, wrong)
        assert same(bits(model), before)
