"""A planted circuit: the neurons, and the weights, that do a task are known, and are exactly what stays."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from sparc3_lightning import attribute
from sparc3_lightning.evaluation.task import last_token_logits
from sparc3_lightning.models.families import get_family
from sparc3_lightning.pruning.circuits import Contest, Importance, Order, keep_neurons
from sparc3_lightning.pruning.replacement import Values, mean_outputs, means_of, replaced, twins, zeros
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.trials.circuit import kept_weights, no_weights
from sparc3_lightning.trials.trial import UNCHANGED, Intervention
from tests.integration.test_planted import (
    BAD,
    BEHAVIOUR,
    GENERAL,
    GOOD,
    IS_OTHER,
    IS_TRIGGER,
    SAY_BAD,
    TRIGGER,
    planted,
)
from tests.tiny import LAYERS, NEURONS

# Right after TRIGGER is BAD; its twin ends with a token to which no planted neuron has anything to say.
NEUTRAL = 39
CLEAN = [torch.tensor([3 + number, 9, 20 - number, TRIGGER]) for number in range(8)]
CORRUPTED = [torch.cat([ids[:-1], torch.tensor([NEUTRAL])]) for ids in CLEAN]
NUM_PLANTED = len(BEHAVIOUR) / (LAYERS * NEURONS)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    model = planted()
    with torch.no_grad():
        model.model.embed_tokens.weight[NEUTRAL, IS_OTHER] = 0.0
    return model


@pytest.fixture(scope="module", params=["abs", "signed"])
def scores(request: pytest.FixtureRequest, model: LlamaForCausalLM) -> ScoreSet:
    return attribute(model, CLEAN, target=f"contrast:{BAD}:{GOOD}", sign=request.param)


@torch.no_grad()
def difference(model: LlamaForCausalLM, kept: dict[int, Tensor], values: Values) -> float:
    with replaced(model, kept, values):
        logits = last_token_logits(model, CLEAN + CORRUPTED)[: len(CLEAN)]
    return float((logits[:, BAD] - logits[:, GOOD]).mean())


def pairs(kept: dict[int, Tensor]) -> set[tuple[int, int]]:
    return {(layer, int(index)) for layer, stays in kept.items() for index in stays.nonzero()[:, 0]}


@pytest.fixture(params=["zero", "corrupted"])
def values(request: pytest.FixtureRequest) -> Values:
    return {"zero": zeros, "corrupted": twins}[request.param]


def test_the_planted_circuit_is_found_exactly(scores: ScoreSet) -> None:
    assert pairs(keep_neurons(Importance("lrp", scores), NUM_PLANTED)) == BEHAVIOUR


def test_it_does_the_task_alone_and_a_flipped_order_does_not(
    model: LlamaForCausalLM, scores: ScoreSet, values: Values
) -> None:
    def faithful(order: Order, share: float) -> float:
        empty, full = (difference(model, keep_neurons(Importance("lrp", scores), end), values) for end in (0.0, 1.0))
        found = difference(model, keep_neurons(Importance("lrp", scores, order), share), values)
        return (found - empty) / (full - empty)

    assert faithful("highest", NUM_PLANTED) > 0.9
    assert faithful("lowest", 1 - NUM_PLANTED) < 0.1


# The rest at its mean over the task's own clean samples, as runs have it: these are of two kinds, of which the one is
# right where the other is wrong, so that a mean says neither.

TASK = [*CLEAN, *(torch.cat([ids[:-1], torch.tensor([25 + number])]) for number, ids in enumerate(CLEAN))]
RIGHT, WRONG = [BAD] * len(CLEAN) + [GOOD] * len(CLEAN), [GOOD] * len(CLEAN) + [BAD] * len(CLEAN)


@torch.no_grad()
def right_less_wrong(model: LlamaForCausalLM, kept: dict[int, Tensor]) -> Tensor:
    values = means_of(mean_outputs(model, [TASK], lambda ids: last_token_logits(model, ids)))
    with replaced(model, kept, values):
        logits = last_token_logits(model, TASK)
    at = range(len(TASK))
    return logits[at, RIGHT] - logits[at, WRONG]


@pytest.mark.parametrize("sign", ["abs", "signed"])
def test_with_the_rest_at_its_mean_over_the_task_s_samples_the_neurons_of_both_kinds_do_it_alone(
    model: LlamaForCausalLM, sign: Any
) -> None:
    scores = attribute(model, TASK, target="next_token", targets=RIGHT, against=WRONG, sign=sign)
    both = (len(BEHAVIOUR) + len(GENERAL)) / (LAYERS * NEURONS)
    assert pairs(keep_neurons(Importance("lrp", scores), both)) == BEHAVIOUR | GENERAL
    empty, full = (right_less_wrong(model, keep_neurons(Importance("lrp", scores), end)) for end in (0.0, 1.0))
    assert bool((full > 0).all())
    assert float(full.mean()) > 10 * abs(float(empty.mean())), "means of two kinds tell none from the other"

    def faithful(order: Order, share: float) -> float:
        found = right_less_wrong(model, keep_neurons(Importance("lrp", scores, order), share))
        return float((found - empty).mean() / (full - empty).mean())

    assert faithful("highest", both) > 0.9
    assert faithful("lowest", 1 - both) < 0.1


# Of weights

PLANTED = {
    (f"model.layers.{layer}.mlp.{part}", *place)
    for layer, index in BEHAVIOUR
    for part, place in (
        ("up_proj", (index, IS_TRIGGER)), ("gate_proj", (index, IS_TRIGGER)), ("down_proj", (SAY_BAD, index)),
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def quiet(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same with next to nothing handed on by attention, whose random weights read the trigger too."""
    found = copy.deepcopy(model)
    with torch.no_grad():
        for block in found.model.layers:
            block.self_attn.v_proj.weight.mul_(0.01)
    return found


@pytest.fixture(scope="module", params=["abs", "signed"])
def weights(request: pytest.FixtureRequest, quiet: LlamaForCausalLM) -> ScoreSet:
    options: dict[str, Any] = {"granularity": "weight", "modules": "all", "sign": request.param}
    return attribute(quiet, CLEAN, target=f"contrast:{BAD}:{GOOD}", **options)


@torch.no_grad()
def difference_of_weights(model: LlamaForCausalLM, done: Intervention) -> float:
    with done.apply(model):
        logits = last_token_logits(model, CLEAN)
    return float((logits[:, BAD] - logits[:, GOOD]).mean())


def test_the_planted_weights_are_found_exactly_and_a_flipped_order_is_not(
    quiet: LlamaForCausalLM, weights: ScoreSet
) -> None:
    layers = get_family("llama").block_linears(quiet)
    share = len(PLANTED) / sum(math.prod(weights.shapes[name]) for name in layers)

    def contest(order: Order) -> Contest:
        return Contest(Importance("lrp", weights, order), list(layers), "global", [share, 1 - share])

    def faithful(order: Order, share: float) -> float:
        empty, full = (difference_of_weights(quiet, end) for end in (no_weights(layers), UNCHANGED))
        return (difference_of_weights(quiet, kept_weights(contest(order), layers, share, "")) - empty) / (full - empty)

    kept = {(name, *place) for name, stays in contest("highest").keep(share) for place in stays.nonzero().tolist()}
    assert kept == PLANTED
    assert faithful("highest", share) > 0.9
    flipped = {(name, *place) for name, stays in contest("lowest").keep(share) for place in stays.nonzero().tolist()}
    assert not flipped & PLANTED
    assert faithful("lowest", 1 - share) < 0.1, "all but the planted ones"
