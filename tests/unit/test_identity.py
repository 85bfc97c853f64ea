"""Hashes and versions."""

import torch

from sparc3_lightning.identity import base_model, weight_hash
from tests.tiny import LAYERS, NEURONS, tiny_llama


def test_hash_does_not_depend_on_dtype() -> None:
    hashes = {weight_hash(tiny_llama(dtype=dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float64)}
    assert len(hashes) == 1


def test_hash_sees_values_names_and_shapes() -> None:
    hashes = [weight_hash(tiny_llama(**options)) for options in ({}, {"seed": 1}, {"tie_word_embeddings": True})]
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] *= 1.01
    hashes.append(weight_hash(model))
    model = tiny_llama()
    mlp = model.model.layers[0].mlp
    mlp.up_proj, mlp.gate_proj = mlp.gate_proj, mlp.up_proj
    hashes.append(weight_hash(model))
    assert len(set(hashes)) == 5


def test_hash_does_not_depend_on_memory_order() -> None:
    model = tiny_llama()
    before = weight_hash(model)
    down = model.model.layers[0].mlp.down_proj
    down.weight.data = down.weight.data.T.contiguous().T
    assert weight_hash(model) == before


def test_base_model() -> None:
    described = base_model(tiny_llama(), name="someone/model", revision="abc")
    assert described["id"] == "someone/model"
    assert described["revision"] == "abc"
    assert described["model_type"] == "llama"
    assert described["num_neurons"] == LAYERS * NEURONS
    assert len(described["weight_hash"]) == 64
    assert base_model(tiny_llama())["id"] == "unnamed llama"
