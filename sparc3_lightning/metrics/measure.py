"""What a measure gives: a column of numbers, which pairs with the same column of another model."""

import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning.loops import Progress
from sparc3_lightning.metrics.perplexity import PerplexityResult
from sparc3_lightning.wording import spoken

# exp of it is still a float64, and further from any language model than anything.
MAX_LOSS = 700.0

Better = Literal["lower", "higher"]
Rows = Literal["prompt", "window", "word"]
Aggregate = Literal["mean", "exp_mean"]
Role = Literal["behaviour", "opinion", "price", "sanity", "beside", "logged", "detail"]
"""What a column is evidence of.

`behaviour` decides the verdict; `opinion` is another scorer's word on it; `price` is what the change cost; `sanity`
says whether the model still works as it did; `beside` is shown with no part in the verdict; `logged` stands in files
and loggers; `detail` in files.
"""


@dataclass(frozen=True, eq=False)
class Column:
    """One measure of one model, row by row.

    Attributes:
        name: Flat, such as `toxicity/mean`: the same in files, tables, figures and loggers.
        unit: Of the figure, for an axis.
        better: Which way is better.
        rows: What a row is; rows are the units of all statistics.
        aggregate: How rows make the figure: their mean, or exp of the values' sum over the weights' sum.
        ids: Of the rows.
        values: A value a row, or one for each of its completions; NaN where there is none.
        weights: Of `exp_mean`: how many items (tokens) each value is a sum over.
        role: What it is evidence of.
        label: What it is, as a sentence begins with it; the name in words unless given.
        digits: Decimals that a sentence gives.
        warning: Of a `sanity` column: what to know where it got significantly worse.
        setting: All that the values depend on but the model; columns pair only where it is equal.
        limits: Least and largest value that there can be; None where there is no such.
        note: What to say of it below a table.

    Shape:
        values (N,) or (N, J), weights (N,).
    """

    name: str
    unit: str
    better: Better
    rows: Rows
    aggregate: Aggregate
    ids: Sequence[str]
    values: Tensor
    weights: Tensor | None = None
    role: Role = "beside"
    label: str = ""
    digits: int = 3
    warning: str = ""
    setting: Mapping[str, Any] = field(default_factory=dict)
    limits: tuple[float, float] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """A column that is none is its measure's fault."""
        assert len(self.ids) == len(self.values), f"{self.name}: {len(self.ids)} ids, {len(self.values)} values"
        assert (self.aggregate == "exp_mean") == (self.weights is not None), self.name
        object.__setattr__(self, "values", self.values.detach().cpu().double())

    @property
    def spoken(self) -> str:
        """What it is, as a sentence begins with it."""
        return self.label or spoken(self.name).capitalize()

    @property
    def figure(self) -> float | None:
        """The one number that all rows make; None where no row has a value."""
        if self.weights is not None:
            return exp_mean(float(self.values.sum()), float(self.weights.sum()))
        known = self.values if self.is_complete else self.values[~self.values.isnan()]
        return float(known.mean()) if known.numel() else None

    @property
    def is_complete(self) -> bool:
        """Whether every value is there."""
        return not bool(self.values.isnan().any())

    @property
    def by_row(self) -> Tensor:
        """One value a row: the mean of those it has; NaN where it has none.

        Shape:
            (N,).
        """
        return self.values if self.values.ndim == 1 else row_means(self.values)

    def take(self, places: Sequence[int]) -> "Column":
        """The column of these rows alone."""
        weights = None if self.weights is None else self.weights[[*places]]
        ids = [self.ids[place] for place in places]
        return replace(self, ids=ids, values=self.values[[*places]], weights=weights)

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON values: None where a value is missing."""
        return {
            **{name: value for name, value in vars(self).items() if name not in ("ids", "values", "weights")},
            "ids": list(self.ids),
            "values": _without_nan(self.values.tolist()),
            "weights": None if self.weights is None else self.weights.tolist(),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Column":
        """Read back what `to_json` gave."""
        weights = data["weights"]
        return Column(
            **{
                **data,
                "values": torch.tensor(_with_nan(data["values"]), dtype=torch.float64),
                "weights": None if weights is None else torch.tensor(weights, dtype=torch.float64),
                "limits": None if data["limits"] is None else tuple(data["limits"]),
            }
        )


class TextPrompt(Protocol):
    """What generation needs of a prompt: `id` keys its noise, `text` is continued."""

    @property
    def id(self) -> str:
        """Unique among the prompts."""

    @property
    def text(self) -> str:
        """What is continued."""


@dataclass(frozen=True)
class Completion:
    """One generated completion, without its prompt and without the end-of-text token.

    Attributes:
        prompt: Number of its prompt.
        completion: Its number among the prompt's completions.
        token_ids: Generated ids.
        text: Their text.
    """

    prompt: int
    completion: int
    token_ids: list[int]
    text: str


@dataclass(frozen=True)
class Material:
    """What an evaluation has for a measure to make columns of; the same on every rank.

    Attributes:
        model: The model as it is evaluated.
        tokenizer: Its tokenizer.
        prompts: What was continued; may be none.
        completions: Of each prompt, in its order.
        perplexity: The text's losses by protocol, window by window.
        setting: What completions depend on but the model.
        batch_size: Most rows in one forward pass.
        max_tokens: Most tokens in one.
        progress: Wraps a loop.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[TextPrompt]
    completions: Sequence[Sequence[Completion]]
    perplexity: Mapping[str, PerplexityResult]
    setting: Mapping[str, Any]
    batch_size: int
    max_tokens: int
    progress: Progress


class Measure(ABC):
    """What `Evaluator.init_args.measures` names: gives columns, which all that follows shows unasked.

    Of completions `metrics.CompletionMeasure` is the base: it sees them as they are generated. Any other measure may
    pass the model itself; every rank is asked, and all must give the same.
    """

    @abstractmethod
    def columns(self, material: Material) -> Iterable[Column]:
        """The measure's columns."""

    def check(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse before hours of work what `columns` would refuse; every rank is asked. By default its `setting`."""
        self.setting()

    def fingerprints(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Collection[str]:
        """Of texts that it reads by itself (`data.samples.fingerprint`): a run that attributes one warns."""
        return ()

    def setting(self) -> dict[str, Any]:
        """What its values depend on, as JSON: its class and arguments, read from attributes of their names.

        Figures are kept under it and read again: a measure whose code changes needs another name or a new `trials_dir`.

        Raises:
            ValueError: An argument that it keeps under another name, or that is no JSON: then say it in a `setting`.
        """
        kind, options = type(self), {}
        for name in (name for name in inspect.signature(kind.__init__).parameters if name != "self"):
            place = next((place for place in (name, f"_{name}") if hasattr(self, place)), None)
            try:
                options[name] = None if place is None else json.loads(json.dumps(getattr(self, place)))
            except TypeError:
                place = None
            if place is None:
                raise ValueError(
                    f"the measure {kind.__qualname__} must keep its argument `{name}`, a JSON value, as `self.{name}`, "
                    "or have a method `setting` of its own: figures are kept by what they depend on."
                )
        return {"class": f"{kind.__module__}.{kind.__qualname__}", **options}


def row_means(values: Tensor) -> Tensor:
    """Mean of the values that each row has; NaN where it has none.

    Shape:
        (N, J) in, (N,) out.
    """
    return values.nanmean(dim=1) if bool(values.isnan().any()) else values.mean(dim=1)


def exp_mean(total: float, count: float) -> float:
    """exp of a mean loss; a broken model's must not overflow: its results would be lost."""
    return math.exp(min(total / count, MAX_LOSS))


def _without_nan(values: Any) -> Any:
    if isinstance(values, list):
        return [_without_nan(value) for value in values]
    return None if values != values else values


def _with_nan(values: Any) -> Any:
    if isinstance(values, list):
        return [_with_nan(value) for value in values]
    return math.nan if values is None else values
