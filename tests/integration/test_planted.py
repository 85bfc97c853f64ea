"""Planted behaviour: the neurons that carry it are known, and selection finds exactly them (method.md, trap 20)."""

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from sparc3_lightning import (
    Recipe,
    ScoreSet,
    WeightRecipe,
    apply_recipe,
    attribute,
    differential,
    select_neurons,
    select_weights,
)
from sparc3_lightning.pruning.passages import Passage
from sparc3_lightning.pruning.screen import ScreenData
from sparc3_lightning.trials.screening import KeptFigures, Screen, describe_screen, screened_recipe, write_screen
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
            wire(model, neurons, read, write)
    return model


def wire(model: LlamaForCausalLM, neurons: Iterable[tuple[int, int]], read: int, write: int) -> None:
    """Let neurons read one channel and write another, and nothing else."""
    for layer, index in neurons:
        mlp = model.model.layers[layer].mlp
        for part in (mlp.up_proj, mlp.gate_proj):
            part.weight[index] = 0
            part.weight[index, read] = 1.0
        mlp.down_proj.weight[:, index] = 0
        mlp.down_proj.weight[write, index] = 1.0


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


@pytest.fixture(scope="module")
def contrast(model: LlamaForCausalLM) -> ScoreSet:
    """Of single weights: of what neurons read and write, and of lm_head."""
    modules = ["model.layers.*.mlp.*", "lm_head"]
    general, behaviour = [
        attribute(model, samples(last, seed), granularity="weight", modules=modules)
        for last, seed in ((None, 0), (TRIGGER, 3))
    ]
    return differential([general], behaviour)


def planted_weights() -> set[tuple[str, int, int]]:
    """What each neuron of the behaviour reads, and where it writes; and what says BAD."""
    found = {("lm_head", BAD, SAY_BAD)}
    for layer, index in BEHAVIOUR:
        mlp = f"model.layers.{layer}.mlp"
        found |= {(f"{mlp}.up_proj", index, IS_TRIGGER), (f"{mlp}.gate_proj", index, IS_TRIGGER)}
        found |= {(f"{mlp}.down_proj", SAY_BAD, index)}
    return found


def weights_of(recipe: WeightRecipe) -> set[tuple[str, int, int]]:
    return {
        (name, *divmod(index, recipe.shapes[name][1]))
        for name, indices in recipe.weights.items()
        for index in indices.tolist()
    }


def lowest(contrast: ScoreSet, num: int) -> WeightRecipe:
    return select_weights(contrast, num / contrast.num_scores)


def test_selection_finds_exactly_the_behaviours_weights(model: LlamaForCausalLM, contrast: ScoreSet) -> None:
    recipe = lowest(contrast, 10)
    assert weights_of(recipe) == planted_weights()
    with apply_recipe(model, recipe):
        assert BAD not in answers(model, TRIGGER)
        assert answers(model, None) == {GOOD}
    assert answers(model, TRIGGER) == {BAD}


def test_a_screen_of_rows_keeps_what_works(model: LlamaForCausalLM, contrast: ScoreSet, tmp_path: Path) -> None:
    """The row that says GOOD has the lowest score, made up; the one that says BAD is the one to remove."""
    words = [Passage(torch.cat([ids, torch.tensor([BAD])]), len(ids)) for ids in samples(TRIGGER, 3)]
    others = [Passage(torch.cat([ids, torch.tensor([GOOD])]), len(ids)) for ids in samples(None, 4)]
    data = ScreenData(words, others, [Passage(ids) for ids in samples(None, 5)])
    selected = lowest(contrast, 40)
    head = sorted([*selected.weights["lm_head"].tolist(), GOOD * 16 + SAY_GOOD])
    scores = [-9.0 if index // 16 == GOOD else -0.01 for index in head]
    selected = replace(
        selected, weights={**selected.weights, "lm_head": head}, scores={**selected.scores, "lm_head": scores}
    )
    candidates = selected.only(selected.candidates[:25])
    assert candidates.candidates[0] == ("lm_head", GOOD)
    with KeptFigures(tmp_path, {"weights": selected.sha256}) as figures:
        recipe, found, joint = screened_recipe(
            model, candidates, 25, data, Screen(price_weight=1.0), figures, lambda items, total, what: items
        )
    assert isinstance(recipe, WeightRecipe)
    assert recipe.candidates[0] == ("lm_head", BAD)
    assert ("lm_head", GOOD) not in recipe.candidates, "it costs ordinary words"
    by_row = {one.candidate: one for one in found}
    assert by_row["lm_head", GOOD].ordinary > 0.5
    assert all(min(by_row[row].effect, by_row[row].confirmed) > 0 for row in recipe.candidates)
    assert weights_of(recipe) == {one for one in weights_of(selected) if one[:2] in {*recipe.candidates}}, "their union"
    assert recipe.options["screen"]["joint"]["num_rows"] == joint.num == len(recipe.candidates)
    assert recipe.options["num_weights"] == recipe.num < candidates.num
    assert f"by both halves; {joint.num} were chosen." in describe_screen(found, joint, None, data.unit)
    with apply_recipe(model, recipe):
        assert BAD not in answers(model, TRIGGER)
        assert answers(model, None) == {GOOD}
    (kept,) = tmp_path.glob("screen-*.jsonl")
    assert f'["effect", ["lm_head", {BAD}], ' in kept.read_text()
    table = write_screen(tmp_path, candidates, found, recipe).read_text().splitlines()
    assert table[0].startswith("module,row,score,effect,")
    assert len(table) == 1 + len(candidates.candidates)
    assert table[1].startswith(f"lm_head,{GOOD},-9.0,")
