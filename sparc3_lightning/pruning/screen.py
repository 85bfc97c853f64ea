"""Verify by removal: what removing each candidate alone does, before any is chosen (method.md, section 8)."""

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning.data.samples import token_hash
from sparc3_lightning.distributed.owners import is_sharded
from sparc3_lightning.distributed.ranks import gather_objects, raise_together, rank_and_world_size, world_size
from sparc3_lightning.loops import Counted, Progress, no_progress
from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.passages import Passage, Passages
from sparc3_lightning.pruning.recipe import Candidate, Recipe
from sparc3_lightning.pruning.weight_recipe import AnyRecipe
from sparc3_lightning.wording import NATS, measured_on

Remove = Callable[[list[Any]], AnyRecipe]
"""The recipe that removes some candidates together; `Recipe` itself where they are neurons."""


class Responses(ABC):
    """Prompts, and what scores a model's completions of them: a behaviour none of whose words is known.

    Attributes:
        unit: Name of the score.
    """

    unit: str

    @abstractmethod
    def __len__(self) -> int:
        """Give the number of prompts."""

    @abstractmethod
    def scores(self, model: PreTrainedModel) -> Tensor:
        """Score of each prompt's completions by the model as it is now, their mean. Every rank that measures must call.

        Shape: (S,) float64.
        Units: `unit`.
        """

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """All that the scores depend on but the model, as JSON."""


@dataclass(frozen=True)
class ScreenData:
    """What candidates are measured on.

    Attributes:
        behaviour: The behaviour's words, or what its prompts are answered; at least two.
        ordinary: Ordinary words, or none; nats beside a score say nothing, so none with responses.
        price: Text; none for no price.
        unseen: Text that chooses nothing, and tells the price of what was chosen; none where there is no more.

    Raises:
        ValueError: Fewer than two words or prompts of the behaviour; ordinary words beside responses.
    """

    behaviour: Sequence[Passage] | Responses
    ordinary: Sequence[Passage] = ()
    price: Sequence[Passage] = ()
    unseen: Sequence[Passage] = ()

    def __post_init__(self) -> None:
        """Refuse what leaves a half without a word."""
        if len(self.behaviour) < 2:
            raise ValueError(
                f"`behaviour` must hold at least two {measured_on(self.unit)}, one proposes and one confirms, got "
                f"{len(self.behaviour)}."
            )
        if isinstance(self.behaviour, Responses) and self.ordinary:
            raise ValueError(f"`ordinary` must be empty where responses are scored, got {len(self.ordinary)} words.")

    @property
    def unit(self) -> str:
        """What effects are counted in: nats of words, or the score of responses."""
        return self.behaviour.unit if isinstance(self.behaviour, Responses) else NATS

    def key(self) -> dict[str, Any]:
        """Tells what candidates are measured on from other data, as JSON."""
        sets = {"behaviour": self.behaviour, "ordinary": self.ordinary, "price": self.price}
        return {name: one.key() if isinstance(one, Responses) else _passages_key(one) for name, one in sets.items()}


def _passages_key(passages: Sequence[Passage]) -> list[Any]:
    return [token_hash([one.ids for one in passages]), [one.start for one in passages]]


@dataclass(frozen=True)
class Screened:
    """What removing one candidate alone does.

    Attributes:
        candidate: Which.
        effect: Fall of the behaviour words' mean log-probability (of the responses' mean score), of the half that
            proposes.
        confirmed: The same of the other half.
        ordinary: Fall of the ordinary words' mean log-probability; 0 without any.
        price: Rise of the mean token loss of the price text; None where no price could have made it chosen.

    Units: nats; of effects `ScreenData.unit`.
    """

    candidate: Candidate
    effect: float
    confirmed: float
    ordinary: float
    price: float | None = None

    def value(self, price_weight: float, confirm: bool = False) -> float:
        """What speaks for removing it: its effect (the other half's with `confirm`) less what it costs.

        Units: the effect's.
        """
        effect = self.confirmed if confirm else self.effect
        return effect - price_weight * max(0.0, self.price or 0.0) - max(0.0, self.ordinary)


Keep = Callable[[str, Candidate, Callable[[], list[float]]], list[float]]
"""`keep(what, candidate, measure)` gives what was measured of a candidate before, or measures it now."""


class Meter:
    """Tells what a model has lost by a change: of the behaviour, of ordinary words and of text.

    Args:
        model: The base model, as it is before any change.
        data: What it is measured on.
        layers: Blocks at which a later pass may begin.
        max_tokens: Most tokens in one forward pass of words or text.

    Raises:
        ValueError: Completions that cannot be made or scored.
    """

    def __init__(
        self, model: PreTrainedModel, data: ScreenData, layers: Sequence[int] = (), max_tokens: int = 2048
    ) -> None:
        self.model, self.data, self.max_tokens = model, data, max_tokens
        if isinstance(data.behaviour, Responses):
            self._scores, self._words = data.behaviour.scores(model), None
        else:
            self._words = Passages(model, [*data.behaviour, *data.ordinary], max_tokens, layers)
        self._text = Passages(model, data.price, max_tokens, layers)

    def falls(self, layer: int = 0) -> tuple[Tensor, Tensor]:
        """By how much the behaviour's words (or scores) and the ordinary words have fallen, each.

        Args:
            layer: The first block whose weights have changed, one of `layers` or 0.

        Shape: (S,), (S',).
        Units: nats; of the behaviour `ScreenData.unit`.
        """
        if isinstance(self.data.behaviour, Responses):
            return self._scores - self.data.behaviour.scores(self.model), torch.zeros(0)
        assert self._words is not None
        fall, num = self._words.base - self._words.log_probs(layer), len(self.data.behaviour)
        return fall[:num], fall[num:]

    def rise(self, layer: int = 0) -> float:
        """By how much the price text's mean token loss has risen; 0 without one.

        Args:
            layer: The first block whose weights have changed, one of `layers` or 0.

        Units: nats.
        """
        return _rise(self._text, layer)


def _rise(text: Passages, layer: int) -> float:
    rises = text.base - text.log_probs(layer)
    return rises.sum().item() / max(1, int(text.num_tokens.sum()))


def screen(
    meter: Meter,
    candidates: Sequence[Candidate],
    num_chosen: int,
    price_weight: float = 10.0,
    keep: Keep = lambda what, candidate, measure: measure(),
    progress: Progress = no_progress,
    remove: Remove = Recipe,
) -> list[Screened]:
    """Remove each candidate alone, and measure. Every rank must call.

    A price is asked only of candidates that it could leave among the best `num_chosen`: a price lowers a value, so
    what is chosen is the same as if all had been asked.

    Args:
        meter: Of the base model; every second word or prompt of the behaviour proposes, the others confirm. The layers
            of all candidates are among its layers.
        candidates: Neurons as (layer, index), or rows, (name of the layer, row).
        num_chosen: How many are going to be chosen at most.
        price_weight: What a nat of price must bring, in the unit of effects.
        keep: Finds what was measured before.
        progress: Wraps the loops.
        remove: Makes a recipe of candidates.

    Returns:
        What each candidate does, in the order of `candidates`.

    Raises:
        FloatingPointError: A figure that is not finite; names the candidate. On every rank.
        ValueError: Completions that cannot be made or scored. On every rank.
    """
    model = meter.model

    def effects(recipe: AnyRecipe) -> list[float]:
        behaviour, ordinary = meter.falls(recipe.first_block)
        return [_mean(behaviour[::2]), _mean(behaviour[1::2]), _mean(ordinary)]

    def rise(recipe: AnyRecipe) -> list[float]:
        return [meter.rise(recipe.first_block)]

    found = _measured(model, sorted(candidates), effects, "effect", keep, progress, remove)
    screened = [Screened(one, *found[one]) for one in candidates]
    if not meter.data.price:
        return [replace(one, price=0.0) for one in screened]

    def measure(some: Sequence[Screened]) -> list[Screened]:
        prices = _measured(model, [one.candidate for one in some], rise, "price", keep, no_progress, remove)
        return [replace(one, price=prices[one.candidate][0]) for one in some]

    at_once = 1 if is_sharded(model) else world_size()
    return _priced(screened, measure, num_chosen, price_weight, at_once, progress)


def choose(screened: Iterable[Screened], num_chosen: int, price_weight: float = 10.0) -> list[Screened]:
    """The best by value, best first: only those whose value is above 0, and above 0 by the half that confirms too.

    Args:
        screened: What each candidate does; those without a price are not among the best.
        num_chosen: How many at most.
        price_weight: What a nat of price must bring, in the unit of effects.
    """
    good = [
        one
        for one in screened
        if one.price is not None and one.value(price_weight) > 0 and one.value(price_weight, confirm=True) > 0
    ]
    return sorted(good, key=lambda one: (-one.value(price_weight), one.candidate))[:num_chosen]


def _priced(
    screened: Sequence[Screened],
    measure: Callable[[Sequence[Screened]], list[Screened]],
    num_chosen: int,
    price_weight: float,
    at_once: int,
    progress: Progress,
) -> list[Screened]:
    """Ask prices in the order of the highest value that is possible, until no other can be among the best."""
    found = {one.candidate: one for one in screened}
    waiting = sorted(
        (one for one in screened if one.value(price_weight) > 0 and one.value(price_weight, confirm=True) > 0),
        key=lambda one: (-one.value(price_weight), one.candidate),
    )
    best: list[float] = []

    def asked() -> Iterator[list[Screened]]:
        for start in range(0, len(waiting), at_once):
            if len(best) == num_chosen and waiting[start].value(price_weight) < best[0]:
                return
            yield waiting[start : start + at_once]

    turns = Counted(asked(), "candidates at most", len(waiting), len)
    for some in progress(turns, -(-len(waiting) // at_once), "screen (price)"):
        for one in measure(some):
            found[one.candidate] = one
            if one.value(price_weight) > 0 and one.value(price_weight, confirm=True) > 0:
                heapq.heappush(best, one.value(price_weight))
                if len(best) > num_chosen:
                    heapq.heappop(best)
    return [found[one.candidate] for one in screened]


def _measured(
    model: PreTrainedModel,
    candidates: Sequence[Candidate],
    measure: Callable[[AnyRecipe], list[float]],
    what: str,
    keep: Keep,
    progress: Progress,
    remove: Remove,
) -> dict[Candidate, list[float]]:
    """Figures of each candidate; a model that is not sharded lets every rank measure its share alone."""
    sharded = is_sharded(model)
    first, step = (0, 1) if sharded else rank_and_world_size()
    mine = candidates[first::step]

    def finite(candidate: Candidate) -> list[float]:
        alone = remove([candidate])
        with apply_recipe(model, alone, check_base=False):
            values = measure(alone)
        if not all(map(math.isfinite, values)):  # a NaN would pass for no cost
            raise FloatingPointError(
                f"the {what} of removing {alone.named(candidate)} is not finite: {values}. Check the model's weights, "
                "or use another `model.dtype`. Nothing was saved of it."
            )
        return values

    def share() -> list[tuple[Candidate, list[float]]]:
        items = progress(Counted(mine, "candidates", len(mine)), len(mine), f"screen ({what})")
        return [(one, keep(what, one, partial(finite, one))) for one in items]

    # What generation refuses is a ValueError: a rank that measures alone must not leave the others waiting.
    found = raise_together(share, (FloatingPointError, ValueError, OSError), next(model.parameters()).device)
    return dict(found if sharded else gather_objects(found))


@dataclass(frozen=True)
class Joint:
    """What removing the first so many of the chosen together does.

    Attributes:
        num: How many.
        effect: Fall of the behaviour words' mean log-probability, or of the responses' mean score.
        ordinary: Fall of the ordinary words'.
        price: Rise of the mean token loss of the price text.
        unseen_price: The same of text that has chosen nothing; None without any.

    Units: nats; of the effect `ScreenData.unit`.
    """

    num: int
    effect: float
    ordinary: float
    price: float
    unseen_price: float | None = None


def together(
    meter: Meter,
    chosen: Sequence[Candidate],
    max_price: float | None = None,
    remove: Remove = Recipe,
    progress: Progress = no_progress,
) -> Joint:
    """Remove the chosen together: all of them, or in order until the price is too high. Every rank must call.

    Args:
        meter: Of the base model; the layers of the chosen are among its layers.
        chosen: Neurons or rows, best first.
        max_price: Highest relative rise of perplexity, exp(joint price) - 1; None for no limit.
        remove: Makes a recipe of candidates.
        progress: Wraps the loop.

    Returns:
        What the longest beginning within the price does; of none of them, zeros.
    """

    def price_of(num: int) -> float:
        recipe = remove([*chosen[:num]])
        with apply_recipe(meter.model, recipe, check_base=False):
            return meter.rise(recipe.first_block)

    last, price = 0, 0.0
    nums: Iterable[int] = [len(chosen)] if chosen else []
    if max_price is not None:
        selections = Counted(range(1, len(chosen) + 1), "selections", len(chosen))
        nums = progress(selections, len(chosen), "screen (joint price)")
    for num in nums:
        now = price_of(num)
        if max_price is not None and math.expm1(now) > max_price:
            break
        last, price = num, now
    if not last:
        return Joint(0, 0.0, 0.0, 0.0)
    recipe = remove([*chosen[:last]])
    unseen = Passages(meter.model, meter.data.unseen, meter.max_tokens) if meter.data.unseen else None
    with apply_recipe(meter.model, recipe, check_base=False):
        behaviour, ordinary = meter.falls(recipe.first_block)
        unseen_price = None if unseen is None else _rise(unseen, 0)
    return Joint(last, _mean(behaviour), _mean(ordinary), price, unseen_price)


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else 0.0
