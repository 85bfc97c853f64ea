"""Replacement: what `down` reads is set to zero, a mean or a twin's; weights stay, and all is undone."""

import pytest
import torch
from torch import Tensor

from sparc3_lightning.evaluation.task import last_token_logits
from sparc3_lightning.models.families import get_family
from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.replacement import mean_outputs, means_of, replaced, seen_outputs, twins
from tests.tiny import LAYERS, NEURONS, TINY, tiny_llama

SAMPLES = [torch.tensor(ids) for ids in ([5, 6, 7], [8, 9, 10, 11, 12], [13, 14, 15, 16])]
EQUAL = [torch.tensor(ids) for ids in ([5, 6, 7, 8, 9], [8, 9, 10, 11, 12])]


def kept_but(*gone: tuple[int, int]) -> dict[int, Tensor]:
    kept = {layer: torch.ones(NEURONS, dtype=torch.bool) for layer in range(LAYERS)}
    for layer, index in gone:
        kept[layer][index] = False
    return kept


def outputs_of(model, ids: list[Tensor]) -> dict[int, Tensor]:  # type: ignore[no-untyped-def]
    found: dict[int, Tensor] = {}
    with torch.no_grad(), seen_outputs(model, lambda layer, outputs: found.__setitem__(layer, outputs.clone())):
        last_token_logits(model, ids)
    return found


@pytest.mark.parametrize("family", TINY)
@torch.no_grad()
def test_zero_is_what_removing_a_neuron_does(family: str) -> None:
    model = TINY[family](dtype=torch.float64)
    gone = [(0, 3), (1, 7), (1, 20)]
    before = last_token_logits(model, EQUAL)
    with replaced(model, kept_but(*gone)):
        found = last_token_logits(model, EQUAL)
    with apply_recipe(model, Recipe(gone)):
        expected = last_token_logits(model, EQUAL)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(found, before)
    assert torch.equal(last_token_logits(model, EQUAL), before)


@pytest.mark.parametrize(
    "batches", [[SAMPLES[:1], SAMPLES[1:2], SAMPLES[2:]], [SAMPLES[2:], SAMPLES[:1], SAMPLES[1:2]]]
)
def test_means_are_the_first_tokens_and_those_of_each_other_place_from_the_end(batches: list[list[Tensor]]) -> None:
    model = tiny_llama(dtype=torch.float64)
    means = mean_outputs(model, batches, lambda ids: last_token_logits(model, ids))
    each = [outputs_of(model, [ids]) for ids in SAMPLES]
    for layer in range(LAYERS):
        assert means[layer].shape == (5, NEURONS)
        first = torch.stack([found[layer][0, 0] for found in each]).mean(0)
        torch.testing.assert_close(means[layer][0], first, rtol=1e-12, atol=1e-14)
        for place in range(1, 5):
            having = [found[layer][0, -place] for found, ids in zip(each, SAMPLES, strict=True) if len(ids) > place]
            torch.testing.assert_close(means[layer][-place], torch.stack(having).mean(0), rtol=1e-12, atol=1e-14)


def test_a_mean_counts_the_samples_that_have_its_place() -> None:
    model = tiny_llama(dtype=torch.float64)
    means = mean_outputs(model, [EQUAL, SAMPLES[:1]], lambda ids: last_token_logits(model, ids))
    first, second, short = (outputs_of(model, [ids])[1][0] for ids in (*EQUAL, SAMPLES[0]))
    torch.testing.assert_close(means[1][-1], (first[-1] + second[-1] + short[-1]) / 3)
    torch.testing.assert_close(means[1][-3], (first[-3] + second[-3]) / 2)  # the short one's is its first
    torch.testing.assert_close(means[1][0], (first[0] + second[0] + short[0]) / 3)


def given(means: dict[int, Tensor], ids: Tensor) -> Tensor:
    """What takes the place of the first layer's neurons in a sample, (T, F)."""
    return means_of(means)(0, torch.zeros(1, len(ids), NEURONS, dtype=torch.float64))[0]


@pytest.mark.parametrize(
    ("averaged", "places"),
    [
        (SAMPLES[:1], [0, 1, 1, 1, 2]),  # three tokens: beyond them the earliest inner one
        (SAMPLES[2:], [0, 1, 1, 2, 3]),
        (EQUAL, [0, 1, 2, 3, 4]),
        ([SAMPLES[0], torch.tensor([5])], [0, 1, 1, 1, 2]),  # of one token there is the first alone
        ([torch.tensor([5]), torch.tensor([6])], [0, 0, 0, 0, 0]),
    ],
)
def test_a_place_takes_the_mean_of_its_own_and_before_the_earliest_inner_one_that(
    averaged: list[Tensor], places: list[int]
) -> None:
    model = tiny_llama(dtype=torch.float64)
    means = mean_outputs(model, [[ids] for ids in averaged], lambda ids: last_token_logits(model, ids))
    assert torch.equal(given(means, SAMPLES[1]), means[0][places])
    assert torch.equal(given(means, SAMPLES[1][:1]), means[0][:1]), "a sample of one token has only a first"
    firsts = torch.stack([outputs_of(model, [ids])[0][0, 0] for ids in averaged]).mean(0)
    torch.testing.assert_close(given(means, SAMPLES[1])[0], firsts, rtol=1e-12, atol=1e-14)


def test_a_first_token_unlike_all_others_leaves_them_alone() -> None:
    """Means over samples of several lengths, of which each begins with the token of the others' inner places."""
    model = tiny_llama(dtype=torch.float64)
    samples = [torch.tensor([3, 5, 6]), torch.tensor([3, 7, 5, 6]), torch.tensor([3, 8, 7, 5, 6])]
    means = mean_outputs(model, [[ids] for ids in samples], lambda ids: last_token_logits(model, ids))
    first = outputs_of(model, samples[:1])[0][0, 0]
    for ids in samples:
        torch.testing.assert_close(given(means, ids)[0], first, rtol=1e-12, atol=1e-14)


def test_neurons_that_go_are_their_means() -> None:
    model = tiny_llama(dtype=torch.float64)
    means = mean_outputs(model, [SAMPLES[:1]], lambda ids: last_token_logits(model, ids))  # three places
    found: dict[int, Tensor] = {}

    def see(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        found[len(found)] = args[0].clone()

    with torch.no_grad(), replaced(model, kept_but((0, 3)), means_of(means)):
        family = get_family("llama")
        downs = [block.get_submodule(family.down) for block in family.block_modules(model)]
        handles = [down.register_forward_pre_hook(see) for down in downs]
        last_token_logits(model, SAMPLES[1:2])
        for handle in handles:
            handle.remove()
    expected = means[0][[0, 1, 1, 1, 2], 3]
    torch.testing.assert_close(found[0][0, :, 3], expected)
    torch.testing.assert_close(found[0][0, :, 4], outputs_of(model, SAMPLES[1:2])[0][0, :, 4])


@torch.no_grad()
def test_twins_give_theirs_and_keep_their_own() -> None:
    model = tiny_llama(dtype=torch.float64)
    clean, corrupted = EQUAL, [ids + 20 for ids in EQUAL]
    nothing = {layer: torch.zeros(NEURONS, dtype=torch.bool) for layer in range(LAYERS)}
    with replaced(model, nothing, twins):
        found = last_token_logits(model, clean + corrupted)
    torch.testing.assert_close(found[2:], last_token_logits(model, corrupted), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(found[:2], last_token_logits(model, clean))
    # A sample that is its own twin does not change, whatever goes.
    with replaced(model, nothing, twins):
        same = last_token_logits(model, clean + clean)
    torch.testing.assert_close(same[:2], last_token_logits(model, clean), rtol=1e-10, atol=1e-10)


def test_an_error_inside_leaves_no_hook() -> None:
    model = tiny_llama()
    with pytest.raises(RuntimeError, match="inside"), replaced(model, kept_but((0, 1))):
        raise RuntimeError("inside")
    assert not any(module._forward_pre_hooks for module in model.modules())
