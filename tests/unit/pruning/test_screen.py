"""Log-probabilities from a later block on, and what removing each candidate alone does."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.passages import Passage, Passages
from sparc3_lightning.pruning.recipe import Neuron, Recipe
from sparc3_lightning.pruning.screen import Meter, ScreenData, Screened, choose, screen, together
from tests.tiny import LAYERS, NEURONS, TINY, tiny_llama, tiny_samples

PASSAGES = [Passage(ids, start) for ids, start in zip(tiny_samples((7, 3, 12, 9, 2)), (3, 1, 11, 2, 1), strict=True)]
WORDS, ORDINARY = [PASSAGES[0], PASSAGES[2], PASSAGES[3]], [PASSAGES[1], PASSAGES[4]]
TEXT = [Passage(ids) for ids in tiny_samples((12, 8), seed=5)]
DATA = ScreenData(WORDS, ORDINARY, TEXT)


def log_prob(model: PreTrainedModel, passage: Passage) -> Tensor:
    """By the whole model, one passage at a time."""
    with torch.no_grad():
        logits = model(input_ids=passage.ids[None], use_cache=False).logits[0].double().log_softmax(-1)
    scored = range(passage.start, len(passage.ids))
    return torch.stack([logits[place - 1, passage.ids[place]] for place in scored]).sum()


def log_probs(model: PreTrainedModel, passages: list[Passage]) -> Tensor:
    return torch.stack([log_prob(model, one) for one in passages])


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("max_tokens", [4, 1000])
def test_log_probabilities_are_those_of_the_whole_model(family: str, max_tokens: int) -> None:
    model = TINY[family](dtype=torch.float64)
    passages = Passages(model, PASSAGES, max_tokens)
    torch.testing.assert_close(passages.base, log_probs(model, PASSAGES), rtol=0, atol=1e-9)
    assert passages.num_tokens.tolist() == [4, 2, 1, 7, 1]


@pytest.mark.parametrize("family", TINY)
def test_a_pass_from_a_later_block_on_sees_what_changed_there(family: str) -> None:
    model = TINY[family](dtype=torch.float64)
    passages = Passages(model, PASSAGES, layers=range(LAYERS))
    for layer in range(LAYERS):
        assert torch.equal(passages.log_probs(layer), passages.base), "nothing has changed"
        with apply_recipe(model, Recipe([(layer, 3), (layer, 5)]), check_base=False):
            found = passages.log_probs(layer)
            torch.testing.assert_close(found, log_probs(model, PASSAGES), rtol=0, atol=1e-9)
            assert not torch.allclose(found, passages.base)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_word_may_be_the_last_that_the_context_holds_and_one_more(family: str) -> None:
    model = TINY[family](dtype=torch.float64)
    length = model.config.max_position_embeddings
    (ids,) = tiny_samples((length + 1,))
    found = Passages(model, [Passage(ids, length)])
    expected = model(input_ids=ids[None, :-1]).logits[0, -1].log_softmax(-1)[ids[-1]]
    assert found.base.item() == pytest.approx(expected.item(), abs=1e-12)


def test_blocks_below_are_not_run_and_all_is_put_back() -> None:
    model = tiny_llama()
    passages = Passages(model, PASSAGES, layers=[1])
    ran: list[int] = []
    for number, block in enumerate(model.model.layers):
        block.self_attn.register_forward_hook(lambda *args, number=number: ran.append(number))
    passages.log_probs(1)
    assert set(ran) == {1}
    ran.clear()
    before = model(input_ids=PASSAGES[0].ids[None]).logits
    assert set(ran) == {0, 1}
    assert before.shape[1] == len(PASSAGES[0].ids), "logits of every position again"


def effects(model: PreTrainedModel, neurons: list[Neuron], passages: list[Passage]) -> Tensor:
    before = log_probs(model, passages)
    with apply_recipe(model, Recipe(neurons), check_base=False):
        return before - log_probs(model, passages)


@pytest.mark.parametrize("price", [TEXT, []], ids=["price", "no price"])
def test_each_candidate_is_measured_alone(price: list[Passage]) -> None:
    model = tiny_llama(dtype=torch.float64)
    candidates = [(1, 4), (0, 7), (1, 2), (0, 0)]
    found = screen(Meter(model, ScreenData(WORDS, ORDINARY, price), [0, 1]), candidates, 4, price_weight=0.0)
    assert [one.candidate for one in found] == candidates
    for one in found:
        words = effects(model, [one.candidate], WORDS)
        assert one.effect == pytest.approx(words[[0, 2]].mean().item(), abs=1e-9)
        assert one.confirmed == pytest.approx(words[1].item(), abs=1e-9)
        assert one.ordinary == pytest.approx(effects(model, [one.candidate], ORDINARY).mean().item(), abs=1e-9)
        if not price:
            assert one.price == 0.0
        elif one.price is not None:
            rise = effects(model, [one.candidate], TEXT).sum().item() / (11 + 7)
            assert one.price == pytest.approx(rise, abs=1e-9)
    assert torch.equal(tiny_llama(dtype=torch.float64).lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("num_neurons", [1, 3, 10])
@pytest.mark.parametrize("price_weight", [0.0, 1.0, 10.0])
def test_prices_not_asked_would_have_changed_nothing(num_neurons: int, price_weight: float) -> None:
    model = tiny_llama(dtype=torch.float64)
    candidates = [(layer, index) for layer, index in itertools.product(range(LAYERS), range(NEURONS))]
    asked: list[str] = []

    def keep(what: str, neuron: Neuron, measure: object) -> list[float]:
        asked.append(what)
        return measure()  # type: ignore[operator, no-any-return]

    meter = Meter(model, DATA, range(LAYERS))
    found = screen(meter, candidates, num_neurons, price_weight, keep=keep)
    every = screen(meter, candidates, len(candidates), price_weight)
    chosen = choose(found, num_neurons, price_weight)
    assert chosen == choose(every, num_neurons, price_weight)
    assert chosen, "some neuron is worth it"
    assert asked.count("effect") == len(candidates)
    assert asked.count("price") <= sum(one.price is not None for one in every)
    if num_neurons == 1 and price_weight == 0.0:
        assert asked.count("price") == 1


GOOD = Screened((0, 1), effect=0.3, confirmed=0.2, ordinary=-0.1, price=0.01)


def test_the_value_counts_costs_only() -> None:
    assert GOOD.value(10.0) == pytest.approx(0.3 - 10 * 0.01)
    assert GOOD.value(10.0, confirm=True) == pytest.approx(0.2 - 10 * 0.01)
    assert replace(GOOD, price=-0.01, ordinary=0.05).value(10.0) == pytest.approx(0.3 - 0.05)


def test_only_what_is_above_zero_by_both_halves_is_chosen_best_first() -> None:
    screened = [
        GOOD,
        replace(GOOD, candidate=(0, 2), effect=0.4),
        replace(GOOD, candidate=(0, 3), confirmed=0.05),
        replace(GOOD, candidate=(0, 4), effect=0.1),
        replace(GOOD, candidate=(0, 5), price=None),
    ]
    assert [one.candidate for one in choose(screened, 10)] == [(0, 2), (0, 1)]
    assert [one.candidate for one in choose(screened, 1)] == [(0, 2)]


def test_all_together_or_until_the_price_is_too_high() -> None:
    model = tiny_llama(dtype=torch.float64)
    chosen = [(0, 3), (1, 5), (0, 11), (1, 20)]
    meter = Meter(model, DATA, [0, 1])
    joint = together(meter, chosen)
    assert joint.num == 4
    assert joint.effect == pytest.approx(effects(model, chosen, WORDS).mean().item(), abs=1e-9)
    assert joint.ordinary == pytest.approx(effects(model, chosen, ORDINARY).mean().item(), abs=1e-9)
    prices = [effects(model, chosen[:num], TEXT).sum().item() / 18 for num in range(1, 5)]
    assert joint.price == pytest.approx(prices[-1], abs=1e-9)
    limit = torch.tensor(max(prices[:2])).expm1().item() + 1e-9
    expected = next((num for num, price in enumerate(prices) if torch.tensor(price).expm1() > limit), 4)
    told = []

    def progress(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
        told.append((total, description))
        return items

    assert together(meter, chosen, max_price=limit, progress=progress).num == expected >= 2
    assert told == [(4, "screen (joint price)")]
    assert joint.unseen_price is None
    unseen = Meter(model, replace(DATA, unseen=ORDINARY), [0, 1])
    other = effects(model, chosen, ORDINARY).sum().item() / sum(one.num_scored for one in ORDINARY)
    assert together(unseen, chosen).unseen_price == pytest.approx(other, abs=1e-9)
    assert unseen.data.key() == DATA.key(), "no candidate is measured on it"
    lowest = torch.tensor(prices[0]).expm1().item() - 1e-6
    assert together(meter, chosen, max_price=lowest).num == 0


def test_too_few_words() -> None:
    with pytest.raises(ValueError, match="at least two words"):
        ScreenData(WORDS[:1])


def test_a_figure_that_is_not_finite_is_refused_and_not_kept() -> None:
    model, kept = tiny_llama(), []
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[:, 3] = torch.nan
    meter = Meter(model, DATA, [1])

    def keep(what: str, neuron: Neuron, measure: Callable[[], list[float]]) -> list[float]:
        kept.append(measure())
        return kept[-1]

    with pytest.raises(FloatingPointError, match="the effect of removing neuron 3 of layer 1 is not finite"):
        screen(meter, [(1, 3)], 1, keep=keep)
    assert kept == []
