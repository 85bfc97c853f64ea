"""Planted behaviour: the neurons that carry it are known, and selection finds exactly them (method.md, trap 20)."""

import warnings

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from sparc3_lightning import Recipe, ScoreSet, apply_recipe, attribute, differential, select_neurons
from tests.tiny import VOCAB, tiny_llama

# After TRIGGER the model says BAD; after any other token it says GOOD.
TRIGGER, BAD, GOOD = 40, 41, 42
BEHAVIOUR = {(0, 5), (1, 7), (1, 20)}
GENERAL = {(0, 2), (1, 0), (1, 11)}
IS_TRIGGER, IS_OTHER, SAY_BAD, SAY_GOOD = range(4)  # channels of the residual stream


def planted() -> LlamaForCausalLM:
    """A random model with little to say, six of whose neurons say everything."""
    model = tiny_llama(initializer_range=0.02)
    with torch.no_grad():
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        for channel in range(4):
            embedding[:, channel] = 0
            head[:, channel] = 0
        embedding[:, IS_OTHER], embedding[TRIGGER, IS_OTHER] = 1.0, 0.0
        embedding[TRIGGER, IS_TRIGGER] = 1.0
        embedding[TRIGGER, SAY_GOOD] = 0.1  # what it would say but for the behaviour
        head[BAD, SAY_BAD] = head[GOOD, SAY_GOOD] = 1.0
        for neurons, read, write in ((BEHAVIOUR, IS_TRIGGER, SAY_BAD), (GENERAL, IS_OTHER, SAY_GOOD)):
            for layer, index in neurons:
                mlp = model.model.layers[layer].mlp
                for part in (mlp.up_proj, mlp.gate_proj):
                    part.weight[index] = 0
                    part.weight[index, read] = 1.0
                mlp.down_proj.weight[:, index] = 0
                mlp.down_proj.weight[write, index] = 1.0
    return model


def samples(last: int | None, seed: int, count: int = 24) -> list[Tensor]:
    """Random tokens without TRIGGER, then `last`."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        ids = torch.randint(0, TRIGGER, (3 + number % 5,), generator=generator)
        found.append(ids if last is None else torch.cat([ids, torch.tensor([last])]))
    return found


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return planted()


@pytest.fixture(scope="module", params=["abs", "signed"])
def sets(request: pytest.FixtureRequest, model: LlamaForCausalLM) -> tuple[list[ScoreSet], ScoreSet]:
    general = [attribute(model, samples(None, seed), sign=request.param) for seed in (0, 1, 2)]
    return general, attribute(model, samples(TRIGGER, 3), sign=request.param)


def select(scores: ScoreSet, num_neurons: int = 3) -> Recipe:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return select_neurons(scores, num_neurons)


@torch.no_grad()
def answers(model: LlamaForCausalLM, last: int | None) -> set[int]:
    return {int(model(input_ids=sample[None]).logits[0, -1].argmax()) for sample in samples(last, 9)}


def test_model_behaves_as_planted(model: LlamaForCausalLM) -> None:
    assert VOCAB > GOOD
    assert answers(model, TRIGGER) == {BAD}
    assert answers(model, None) == {GOOD}


def test_selection_finds_exactly_the_behaviours_neurons(sets: tuple[list[ScoreSet], ScoreSet]) -> None:
    assert set(select(differential(*sets)).neurons) == BEHAVIOUR
    assert set(select(differential(*sets, general_weight=8.0, general_penalty="abs")).neurons) == BEHAVIOUR


def test_pruning_them_removes_the_behaviour_and_nothing_else(
    model: LlamaForCausalLM, sets: tuple[list[ScoreSet], ScoreSet]
) -> None:
    with apply_recipe(model, select(differential(*sets))):
        assert BAD not in answers(model, TRIGGER)
        assert answers(model, None) == {GOOD}
    assert answers(model, TRIGGER) == {BAD}


def test_flipped_sign_finds_the_general_neurons(model: LlamaForCausalLM, sets: tuple[list[ScoreSet], ScoreSet]) -> None:
    general, behaviour = sets
    flipped = select(differential([behaviour], general[0]))
    assert set(flipped.neurons) == GENERAL
    with apply_recipe(model, flipped):
        assert answers(model, TRIGGER) == {BAD}
        assert GOOD not in answers(model, None)


def test_weight_granularity_selects_the_same(model: LlamaForCausalLM) -> None:
    general = attribute(model, samples(None, 0), granularity="weight", modules="all")
    behaviour = attribute(model, samples(TRIGGER, 3), granularity="weight", modules="all")
    assert set(select(differential([general], behaviour)).neurons) == BEHAVIOUR
