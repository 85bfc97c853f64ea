"""The screen of a run: its words and its price text, what was measured before, and the recipe that comes of it."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning.data.samples import Prompt, ReferenceSamples, check_at_least
from sparc3_lightning.data.tokens import starts_with_bos
from sparc3_lightning.distributed.owners import is_sharded
from sparc3_lightning.distributed.ranks import alone, from_rank_zero, rank_and_world_size
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.passes import Passes
from sparc3_lightning.evaluation.sampling import SCREEN_SEED
from sparc3_lightning.files import json_sha256, write_text
from sparc3_lightning.loops import Progress
from sparc3_lightning.metrics.perplexity import join_rows
from sparc3_lightning.metrics.scorers import scorer_setting
from sparc3_lightning.pruning.passages import Passage
from sparc3_lightning.pruning.recipe import Candidate, Measured
from sparc3_lightning.pruning.screen import (
    Joint,
    Meter,
    Responses,
    ScreenData,
    Screened,
    choose,
    screen,
    together,
)
from sparc3_lightning.pruning.weight_recipe import AnyRecipe
from sparc3_lightning.statistics.p_values import PairedTest
from sparc3_lightning.statistics.prediction import Prediction, prediction
from sparc3_lightning.trials import SCREEN_FILE
from sparc3_lightning.trials.store import locked
from sparc3_lightning.wording import NATS, joint_effect, lowered, measured_on

FORMAT_VERSION = 1
METHODS_FILE = "screen_methods.csv"
PRICE_WINDOW = 256
"""Most tokens of a window of price text."""
_KEYS = "PruningCallback.init_args.screen"


@dataclass
class Screen:
    """Verify by removal: how candidates are measured before any is chosen.

    Args:
        num_candidates: How many neurons are removed one at a time: the first by the differential. Of single weights how
            many rows are, of each all its selected weights: those with the lowest sums.
        price_weight: What a nat of loss on the price text must bring, in the unit that effects are counted in: nats of
            the words' log-probability or, without words, the evaluator's score of completions; null for 10 nats, or 1
            (one hundredth of the score for each per cent of perplexity).
        max_price: Highest relative rise of perplexity of the price text with all chosen removed; None for no limit.
        num_price_tokens: How many tokens of the price text are read.
        max_tokens: Most tokens in one forward pass of words or text; completions take the evaluator's.
    """

    num_candidates: int = 300
    price_weight: float | None = None
    max_price: float | None = None
    num_price_tokens: int = 4000
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        for option in ("num_candidates", "num_price_tokens", "max_tokens"):
            check_at_least(option, getattr(self, option), 1, _KEYS)
        for option in ("price_weight", "max_price"):
            value = getattr(self, option)
            if value is not None and not value >= 0:
                raise ValueError(f"`{option}` must be at least 0, got {value}. Set `{_KEYS}.{option}`.")

    def weight(self, unit: str) -> float:
        """What a nat of price must bring where effects are counted in `unit`."""
        if self.price_weight is not None:
            return self.price_weight
        return 10.0 if unit == NATS else 1.0


def word_passages(samples: ReferenceSamples) -> list[Passage]:
    """Each sample with what follows it, which is scored; none where nothing is known to follow."""
    return [
        Passage(torch.cat([ids, word]), len(ids)) for ids, word in zip(samples.ids, samples.following, strict=False)
    ]


def num_in_both(words: Sequence[Passage], others: Sequence[Passage]) -> int:
    """How many words stand after the same tokens in both."""
    known = {(one.start, *one.ids.tolist()) for one in others}
    return sum((one.start, *one.ids.tolist()) in known for one in words)


class ScoredResponses(Responses):
    """What the model says to the prompts that were attributed, by the evaluator's scorer and decoding.

    The luck is a screen's own, so that what is chosen by it is evaluated by other.

    Args:
        evaluator: What completes and scores.
        tokenizer: The model's.
        samples: The behaviour's.
        key: Where the samples are set, for messages.

    Raises:
        ValueError: No scorer, or a sample without text.
    """

    def __init__(
        self, evaluator: Evaluator, tokenizer: PreTrainedTokenizerBase, samples: ReferenceSamples, key: str
    ) -> None:
        if evaluator.scorer is None:
            raise ValueError(
                f"nothing is known to follow the samples of `{key}`: `screen` then scores completions, which needs a "
                "scorer, got none. Set `model.evaluator.init_args.scorer`, or a set with words (WordsThatMatter) and "
                "`model.target: next_token`."
            )
        self.evaluator, self.tokenizer = evaluator, tokenizer
        self.unit = evaluator.scorer.attributes[0]
        # What was attributed, cut as it was, with the control tokens of a chat; the beginning's is put there again.
        rows = [ids.tolist()[starts_with_bos(tokenizer, ids.tolist()) :] for ids in samples.ids]
        texts, words = (
            tokenizer.batch_decode(rows, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            for skip in (False, True)
        )
        for name, said in zip(samples.sample_ids, words, strict=True):
            if not said.strip():
                raise ValueError(f"sample `{name}` of `{key}` holds no text that `screen` could continue. Remove it.")
        self.prompts = [Prompt(name, text) for name, text in zip(samples.sample_ids, texts, strict=True)]

    def __len__(self) -> int:
        return len(self.prompts)

    def check(self, model: PreTrainedModel) -> list[Passes]:
        """Refuse before hours of work what `scores` would refuse.

        Returns:
            The forward passes that it takes.
        """
        with _company(model):
            return self.evaluator.check(model, self.tokenizer, None, self.prompts)

    def scores(self, model: PreTrainedModel) -> Tensor:
        """Complete and score on this rank alone, so that each measures candidates of its own; sharded, on all together.

        Shape: (S,) float64.
        """
        with _company(model):
            found = self.evaluator.score_responses(model, self.tokenizer, self.prompts, seed=SCREEN_SEED)
        return torch.tensor(found, dtype=torch.float64)

    def key(self) -> dict[str, Any]:
        """Prompts, decoding, and what the scorer says of the prompts: another checkpoint says something else."""
        return {
            "unit": self.unit,
            "prompts": json_sha256([[prompt.id, prompt.text] for prompt in self.prompts]),
            "decoding": {**self.evaluator.decoding.setting(), "seed": SCREEN_SEED},
            "scorer": scorer_setting(self.evaluator.load_scorer(), [prompt.text for prompt in self.prompts]),
        }


def _company(model: PreTrainedModel) -> AbstractContextManager[object]:
    """Who measures together: the ranks of a sharded model; any other is measured on each rank alone."""
    return nullcontext() if is_sharded(model) else alone()


def price_passages(
    name: str, rows: Sequence[str], encode: Callable[[str], list[int]], num_tokens: int, max_length: int
) -> tuple[list[Passage], list[Passage]]:
    """Windows at even distances of a text, read as perplexity reads it, until so many tokens are scored.

    The beginning of an encyclopedia would be one article, and a row by itself lacks what precedes it.

    Args:
        name: The text's, for messages.
        rows: Its rows.
        encode: Tokenises a text.
        num_tokens: How many.
        max_length: The model's context, in tokens.

    Returns:
        Those that choose; and of the others between them as many tokens, or as many as there are.

    Raises:
        ValueError: There are fewer.
    """
    width = min(PRICE_WINDOW, max_length)
    windows = torch.split(torch.tensor(encode(join_rows(rows, "disjoint")), dtype=torch.int64), width)
    num = math.ceil(num_tokens / (width - 1))
    chosen = _at_even_distances(range(len(windows)), num, 0.0)
    others = _at_even_distances([place for place in range(len(windows)) if place not in chosen], num, 0.5)
    passages, unseen = (_first_tokens([windows[place] for place in some], num_tokens) for some in (chosen, others))
    if (found := sum(one.num_scored for one in passages)) < num_tokens:
        raise ValueError(
            f"`data.price.{name}` must hold at least {num_tokens} tokens to tell a price by, got {found}. "
            f"Give more text, or set `{_KEYS}.num_price_tokens`."
        )
    return passages, unseen


def _at_even_distances(places: Sequence[int], num: int, first: float) -> list[int]:
    """So many places, or all; the first one that part of a distance from the beginning."""
    num = min(num, len(places))
    return [places[int(len(places) * (number + first) / num)] for number in range(num)]


def _first_tokens(windows: Sequence[Tensor], num_tokens: int) -> list[Passage]:
    """Windows until so many tokens are scored; the first of each is not."""
    passages: list[Passage] = []
    for window in windows:
        missing = num_tokens - sum(one.num_scored for one in passages)
        if missing and len(window) > 1:
            passages.append(Passage(window[: missing + 1]))
    return passages


class KeptFigures:
    """What was measured of single candidates before, in lines of JSON, one file a rank; inside a `with` block.

    Another run that screens by the same key waits meanwhile. Every rank must enter and leave.

    Args:
        directory: Where the files lie; several runs may share it.
        key: All that the figures depend on but the candidate, as JSON values.
    """

    def __init__(self, directory: Path, key: dict[str, Any]) -> None:
        self._directory, self._name = directory, json_sha256({"format_version": FORMAT_VERSION, **key})
        self._path = directory / f"screen-{self._name}-{rank_and_world_size()[0]}.jsonl"
        self._known: dict[tuple[str, Candidate], list[float]] = {}
        self._alone = ExitStack()  # rank 0's holds the lock

    def __enter__(self) -> Self:
        # What one rank knows all must know: of a sharded model they measure together.
        self._known = from_rank_zero(self._read)
        return self

    def __exit__(self, *exception: object) -> None:
        self._alone.close()

    def _read(self) -> dict[tuple[str, Candidate], list[float]]:
        self._alone.enter_context(locked(self._directory / f".screen-{self._name}.lock"))
        known: dict[tuple[str, Candidate], list[float]] = {}
        for path in sorted(self._directory.glob(f"screen-{self._name}-*.jsonl")):
            for line in path.read_text("utf-8").splitlines():
                with suppress(ValueError):  # a line that a killed run left half written
                    what, (place, index), figures = json.loads(line)
                    known[what, (place, index)] = figures
        return known

    def keep(self, what: str, candidate: Candidate, measure: Callable[[], list[float]]) -> list[float]:
        """Give what was measured of a candidate before, or measure it now and write it down."""
        if (what, candidate) not in self._known:
            self._known[what, candidate] = measure()
            with self._path.open("a", encoding="utf-8") as file:
                # The newline comes first: a line that a killed run left half written ends there.
                file.write("\n" + json.dumps([what, candidate, self._known[what, candidate]]))
        return self._known[what, candidate]


def screened_recipe(
    model: PreTrainedModel,
    proposed: AnyRecipe,
    num_chosen: int | None,
    data: ScreenData,
    options: Screen,
    figures: KeptFigures,
    progress: Progress,
) -> tuple[AnyRecipe, list[Screened], Joint]:
    """Screen the candidates, choose, and remove the chosen together. Every rank must call.

    Args:
        model: The base model.
        proposed: The first candidates of a selection.
        num_chosen: How many are chosen at most; None for all that are worth their price.
        data: What they are measured on.
        options: How.
        figures: What was measured before; entered.
        progress: Wraps the loops.

    Returns:
        The recipe, empty where no candidate is worth its price (see `check_chosen`); what every candidate does alone;
        and what the recipe's candidates do together.
    """
    weight, candidates = options.weight(data.unit), proposed.candidates
    layers = sorted({proposed.only([one]).first_block for one in candidates})
    meter = Meter(model, data, layers, options.max_tokens)
    at_most = len(candidates) if num_chosen is None else num_chosen
    found = screen(meter, candidates, at_most, weight, figures.keep, progress, proposed.only)
    chosen = choose(found, at_most, weight)
    joint = together(meter, [one.candidate for one in chosen], options.max_price, proposed.only, progress)
    asked = {} if num_chosen is None else {"num_asked": num_chosen}
    told = {**asked, **asdict(options), "price_weight": weight, "unit": data.unit}
    jointly = {"effect": joint.effect, "ordinary": joint.ordinary, "price": joint.price}
    if joint.unseen_price is not None:
        jointly["unseen_price"] = joint.unseen_price
    jointly = {f"num_{proposed.candidates_are}": joint.num, **jointly}
    recipe = _recipe(proposed, chosen[: joint.num], {**told, "joint": jointly})
    return recipe, found, joint


def check_chosen(recipe: AnyRecipe, screened: Sequence[Screened]) -> None:
    """Refuse a screen that has chosen nothing, once its tables are written.

    Args:
        recipe: What came of it.
        screened: What every candidate does alone.

    Raises:
        ValueError: No candidate is worth its price, or even the first one's is above `max_price`.
    """
    if recipe.num:
        return
    told = recipe.options["screen"]
    unit, weight = told["unit"], told["price_weight"]
    if chosen := choose(screened, 1, weight):
        price = math.expm1(chosen[0].price or 0.0)
        raise ValueError(
            f"`max_price` must be at least what the first candidate costs, {price:.2%} of perplexity, got "
            f"{told['max_price']:.2%}. Raise `{_KEYS}.max_price`; `{SCREEN_FILE}` has every candidate's price."
        )
    best = max(min(one.value(weight), one.value(weight, confirm=True)) for one in screened)
    raise ValueError(
        f"none of the {len(screened)} candidates lowers {lowered(unit)} by more than it costs, by both halves of the "
        f"{measured_on(unit)}; the best value is {best:.2g}, see `{SCREEN_FILE}`. Raise `{_KEYS}.num_candidates`, or "
        "lower its `price_weight`."
    )


def _recipe(proposed: AnyRecipe, chosen: Sequence[Screened], told: dict[str, Any]) -> AnyRecipe:
    recipe = proposed.only([one.candidate for one in chosen])
    measured = [_figures(one, told["price_weight"], told["unit"]) for one in chosen]
    options = {**proposed.options, f"num_{recipe.what}": recipe.num, "screen": told}
    return replace(recipe, measured=measured, options=options)


def _figures(one: Screened, price_weight: float, unit: str) -> Measured:
    value = None if one.price is None else one.value(price_weight)
    return {
        "effect": one.effect, "confirmed": one.confirmed, "ordinary": one.ordinary, "price": one.price, "value": value,
        "unit": unit,
    }  # fmt: skip


def write_screen(directory: Path, proposed: AnyRecipe, screened: Sequence[Screened], recipe: AnyRecipe) -> Path:
    """Write the table of all candidates, best first by the differential, as `screen.csv`.

    Args:
        directory: Where.
        proposed: Them.
        screened: What each does, in the same order.
        recipe: What came of it.
    """
    weight, unit = (recipe.options["screen"][name] for name in ("price_weight", "unit"))
    chosen = {one: place for place, one in enumerate(recipe.candidates, start=1)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = ("score", "effect", "confirmed", "ordinary", "price", "value", "unit", "chosen")
    writer.writerow([*proposed.candidate_names, *figures])
    for one, score in zip(screened, proposed.candidate_scores, strict=True):
        writer.writerow([*one.candidate, score, *_figures(one, weight, unit).values(), chosen.get(one.candidate, "")])
    return write_text(directory / SCREEN_FILE, text.getvalue())


@dataclass(frozen=True)
class Predictions:
    """Which method's scores predict what removal does: a test of attribution itself.

    Attributes:
        proposed_by: Key of the method that the candidates are the first of.
        methods: By key of the method, the one that proposed first.
        unit: What the effects are counted in.
        halves: How far one half of the words, or prompts, predicts the other half's effects. No bound for the methods:
            their scores and the effects are of the same words.
    """

    proposed_by: str
    unit: str
    methods: dict[str, Prediction]
    halves: Prediction


def predict_effects(
    screened: Sequence[Screened],
    scores: Mapping[str, Sequence[float]],
    proposed_by: str,
    num_best: int,
    test: PairedTest | None = None,
    unit: str = NATS,
) -> Predictions:
    """Hold each method's scores of the candidates against what removing them did.

    Args:
        screened: What each candidate does; its effect here is the mean of both halves of the words or prompts.
        scores: By key of the method its score of each candidate, the lowest to go first; NaN where it has none.
        proposed_by: Key of the method that proposed the candidates.
        num_best: How many count as the best.
        test: Settings of the statistics.
        unit: What the effects are counted in.

    Raises:
        ValueError: A method has not one score a candidate, or of no candidate.
    """
    first, second = (
        np.array(values) for values in zip(*((one.effect, one.confirmed) for one in screened), strict=True)
    )
    effects = (first + second) / 2
    found = {key: prediction(-np.array(values), effects, num_best, test) for key, values in scores.items()}
    halves = prediction(first, second, num_best, test)
    methods = {proposed_by: found.pop(proposed_by), **found}
    return Predictions(proposed_by, unit, methods, halves)


def write_predictions(directory: Path, found: Predictions) -> Path:
    """Write the table of the methods, and of one half of the data as `other_half`, as `screen_methods.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = ("low", "high")
    writer.writerow(
        ["method", "proposed", "num_candidates", "correlation", *(f"correlation_{end}" for end in ends), "p_value",
         "num_best", "recall", *(f"recall_{end}" for end in ends), "recall_by_chance", "missing"]
    )  # fmt: skip
    for key, one in {**found.methods, "other_half": found.halves}.items():
        order, best = one.correlation_interval, one.recall_interval
        writer.writerow(
            [key, key == found.proposed_by, one.num_units, one.correlation, order and order.low, order and order.high,
             one.p_value, one.num_best, one.recall, best.low, best.high, one.recall_by_chance, one.missing]
        )  # fmt: skip
    return write_text(directory / METHODS_FILE, text.getvalue())


def describe_screen(screened: Sequence[Screened], joint: Joint, num_asked: int | None, unit: str) -> str:
    """What the screen found, in two lines; None was asked for where all that are worth their price are chosen."""
    lowering = sum(one.effect > 0 and one.confirmed > 0 for one in screened)
    asked = "" if num_asked is None else f" of the {num_asked} asked for"
    found = joint_effect(unit, joint.effect, joint.ordinary, joint.price, joint.unseen_price)
    return (
        f"screen: of {len(screened)} candidates {lowering} lower {lowered(unit)} by both halves; "
        f"{joint.num}{asked} were chosen.\n"
        f"{found[0].upper()}{found[1:]}"
    )
