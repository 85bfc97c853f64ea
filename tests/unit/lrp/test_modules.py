"""Which layers are attributed: tied ones left out by name, quantised ones refused (method.md, traps 13, 14)."""

import pytest
import torch
from torch import nn

from sparc3_lightning import attribute
from sparc3_lightning.lrp.modules import select_modules, tied_modules
from tests.tiny import LAYERS, PARTS, TINY, neuron_modules, tiny_llama, tiny_samples


@pytest.mark.parametrize("family", sorted(TINY))
def test_all_and_neurons(family: str) -> None:
    names, left_out = select_modules(TINY[family](), "all")
    parts = PARTS[family]
    assert names == [
        *(f"{parts.blocks}.{layer}.{name}" for layer in range(LAYERS) for name in parts.linears),
        "lm_head",
    ]
    assert left_out == []
    assert select_modules(TINY[family](), "neurons") == (neuron_modules(family), [])


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("model.layers.0.mlp.*", ["gate_proj", "up_proj", "down_proj"]),
        (["*.0.mlp.down_proj", "*.0.mlp.up_proj"], ["up_proj", "down_proj"]),  # the model's order
        ("re:.*0\\.mlp\\.(up|gate)_proj", ["gate_proj", "up_proj"]),
        (["*.0.mlp.up_proj", "re:.*0.mlp.up_proj"], ["up_proj"]),
    ],
)
def test_patterns(patterns: str | list[str], expected: list[str]) -> None:
    assert select_modules(tiny_llama(), patterns) == ([f"model.layers.0.mlp.{part}" for part in expected], [])


@pytest.mark.parametrize("patterns", ["nothing", "mlp", ["*.up_proj", "*.fc1"], "re:up_proj", []])
def test_patterns_that_match_nothing_are_refused(patterns: str | list[str]) -> None:
    with pytest.raises(ValueError, match=r"`modules` must .*Set `model\.modules`"):
        select_modules(tiny_llama(), patterns)


@pytest.mark.parametrize("family", sorted(TINY))
def test_tied_head_is_left_out_and_named(family: str) -> None:
    model = TINY[family](tie_word_embeddings=True)
    assert tied_modules(model) == ["lm_head"]
    names, left_out = select_modules(model, "all")
    assert left_out == ["lm_head"]
    assert len(names) == len(PARTS[family].linears) * LAYERS
    scores = attribute(model, tiny_samples(), modules="all")
    assert list(scores.scores) == names
    assert scores.manifest["left_out"] == ["lm_head"]
    with pytest.raises(ValueError, match="not tied to the embedding, got 'lm_head'"):
        select_modules(model, "lm_head")


def test_tied_head_still_passes_relevance_on() -> None:
    """Left out of the scores, not of the model: the other layers score as with an untied copy of the head."""
    tied = tiny_llama(tie_word_embeddings=True)
    untied = tiny_llama()
    untied.load_state_dict({**tied.state_dict(), "lm_head.weight": tied.model.embed_tokens.weight.detach().clone()})
    ours, other = (attribute(model, tiny_samples(), modules="*proj").scores for model in (tied, untied))
    assert ours.keys() == other.keys()
    assert all(torch.equal(ours[name], other[name]) for name in ours)


def test_meta_layer_is_refused() -> None:
    model = tiny_llama()
    model.model.layers[1].mlp.up_proj.to("meta")
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj must .* on meta.*off-loaded"):
        attribute(model, tiny_samples())


def test_integer_weight_is_refused() -> None:
    model = tiny_llama()
    up = model.model.layers[0].mlp.up_proj
    up.weight = nn.Parameter(torch.zeros(up.weight.shape, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.up_proj must .*int8.*quantised"):
        attribute(model, tiny_samples())


class Packed(torch.Tensor):
    """As quantisation libraries do it: a subclass that calls itself a float."""


def test_weight_of_another_tensor_class_is_refused() -> None:
    model = tiny_llama()
    up = model.model.layers[0].mlp.up_proj
    up.weight = nn.Parameter(up.weight.detach().as_subclass(Packed), requires_grad=False)
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.up_proj must .*quantised"):
        attribute(model, tiny_samples())


class QuantLinear(nn.Module):
    """A layer that is no nn.Linear: "all" must not leave it out without a word."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear_weight = nn.Buffer(linear.weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.linear_weight.T


@pytest.mark.parametrize("modules", ["all", "neurons"])
def test_layer_of_another_class_is_refused(modules: str) -> None:
    model = tiny_llama()
    mlp = model.model.layers[1].mlp
    mlp.up_proj = QuantLinear(mlp.up_proj)
    with pytest.raises(ValueError, match="quantised"):
        attribute(model, tiny_samples(), modules=modules)
