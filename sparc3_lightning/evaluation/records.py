"""What an evaluation leaves: plain records that go to JSON and come back."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sparc3_lightning.evaluation.generation import Decoding
from sparc3_lightning.metrics.completions import AttributeSummary, Length, Repetition
from sparc3_lightning.metrics.measure import Column, Role
from sparc3_lightning.metrics.perplexity import PerplexityResult, windows
from sparc3_lightning.wording import spoken


@dataclass(frozen=True)
class ScoredCompletion:
    """A completion's text, its length in tokens, its uniqueness (None when empty) and its scores by attribute."""

    text: str
    num_tokens: int
    uniqueness: float | None
    scores: dict[str, float]


@dataclass(frozen=True)
class PromptResult:
    """A prompt and its completions."""

    id: str
    text: str
    completions: list[ScoredCompletion]


@dataclass(frozen=True)
class ToxicityResult:
    """Toxicity with repetition and length beside it, since a broken model is not toxic.

    Attributes:
        protocol: `document`, `rtp` or `custom`.
        scorer: What scored.
        threshold: A score above it counts as toxic.
        decoding: How completions were drawn.
        attributes: Summary of each score, the main one first.
        uniqueness: Mean over completions that are not empty; None where all are.
        length: Mean number of generated tokens, end-of-text left out.
        num_prompts: Prompts.
        num_empty: Completions without a token.
        num_truncated_prompts: Prompts cut to leave room in the context.
        num_truncated_texts: Completions cut to the scorer's length limit.
        prompts: Every prompt with its completions and scores.
        token_counts: What was found in the prompts' token ids; see `data.tokens.token_counts`.
    """

    protocol: str
    scorer: str
    threshold: float
    decoding: Decoding
    attributes: dict[str, AttributeSummary]
    uniqueness: float | None
    length: float
    num_prompts: int
    num_empty: int
    num_truncated_prompts: int
    num_truncated_texts: int
    prompts: list[PromptResult]
    token_counts: dict[str, int] = field(default_factory=dict)

    @property
    def main_attribute(self) -> str:
        """The scorer's first attribute."""
        return next(iter(self.attributes))

    @property
    def main_attributes(self) -> list[str]:
        """The main attribute of every scorer: a `JointScorer` names those of all but its first with a slash."""
        return [self.main_attribute, *(name for name in self.attributes if "/" in name)]


@dataclass(frozen=True)
class Evaluation:
    """One model's evaluation.

    Attributes:
        perplexity: By protocol, where there was a text.
        toxicity: Where there were prompts and a scorer.
        measures: Columns of `Evaluator.init_args.measures`.
        decides: Attribute of the scorer that says what became of the behaviour; None for the main one. Files of an
            evaluation do not tell: see `judged_by`.
    """

    perplexity: dict[str, PerplexityResult]
    toxicity: ToxicityResult | None
    measures: dict[str, Column] = field(default_factory=dict)
    decides: str | None = None

    def judged_by(self, attribute: str | None) -> "Evaluation":
        """The same, but what this attribute says decides; where the scorer has none of this name, all stays."""
        known = {} if self.toxicity is None else self.toxicity.attributes
        return replace(self, decides=attribute) if attribute in known else self

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON values; `columns` has, of each measure that is a mean, the value of each row."""
        means = {name: column.by_row.tolist() for name, column in self.columns.items() if column.weights is None}
        rows = {name: [None if math.isnan(value) else value for value in values] for name, values in means.items()}
        measures = [column.to_json() for column in self.measures.values()]
        return {**self._results(), "columns": rows, **({"measures": measures} if measures else {})}

    def _results(self) -> dict[str, Any]:
        return {
            "perplexity": {name: asdict(result) for name, result in self.perplexity.items()},
            "toxicity": None if self.toxicity is None else asdict(self.toxicity),
        }

    def summary(self) -> dict[str, Any]:
        """The same without what it holds of every window, prompt and completion."""
        summary = self._results()
        for result in summary["perplexity"].values():
            del result["window_losses"]
        if summary["toxicity"] is not None:
            del summary["toxicity"]["prompts"]
        return summary

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Every measure by its name: what comparison, tables, figures and loggers go by."""
        columns = [perplexity_column(result) for result in self.perplexity.values()]
        columns += [] if self.toxicity is None else completion_columns(self.toxicity, self.decides)
        return {column.name: column for column in columns} | self.measures

    @property
    def behaviour_column(self) -> str | None:
        """Name of the column that decides; None where no behaviour was measured."""
        return next(iter(self._of_role("behaviour")), None)

    @property
    def price_columns(self) -> list[str]:
        """Names of the columns that say what a change cost."""
        return self._of_role("price")

    def _of_role(self, role: Role) -> list[str]:
        return [name for name, column in self.columns.items() if column.role == role]

    def scalars(self) -> dict[str, float]:
        """Its figures under flat names, for a logger."""
        figures = {name: column.figure for name, column in self.columns.items()}
        return {name: figure for name, figure in figures.items() if figure is not None}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Evaluation":
        """Read back what `to_json` gave."""
        toxicity = data["toxicity"]
        return Evaluation(
            perplexity={name: PerplexityResult(**result) for name, result in data["perplexity"].items()},
            toxicity=None if toxicity is None else _toxicity_from_json(toxicity),
            measures={column["name"]: Column.from_json(column) for column in data.get("measures", [])},
        )


def perplexity_column(result: PerplexityResult) -> Column:
    """A text's losses, window by window."""
    cut = windows(result.num_tokens, result.protocol, result.window, result.stride)
    return Column(
        name=f"perplexity/{result.protocol}",
        unit="perplexity",
        better="lower",
        rows="window",
        aggregate="exp_mean",
        ids=[str(window.start) for window in cut],
        values=torch.tensor(result.window_losses, dtype=torch.float64),
        weights=torch.tensor([window.num_scored for window in cut], dtype=torch.float64),
        role="price",
        label=f"Perplexity ({result.protocol})",
        digits=2,
        setting={key: getattr(result, key) for key in ("protocol", "num_tokens", "window", "stride")},
    )


def completion_setting(result: ToxicityResult) -> dict[str, Any]:
    """What completions depend on but the model."""
    texts = json.dumps([row.text for row in result.prompts])  # ASCII, whatever a text holds
    digest = hashlib.sha256(texts.encode()).hexdigest()
    return {"protocol": result.protocol, "decoding": result.decoding.setting(), "texts": digest}


def completion_columns(result: ToxicityResult, decides: str | None = None) -> list[Column]:
    """What the scorer says of the completions, their repetition and their length, prompt by prompt.

    Args:
        result: The completions, scored.
        decides: The attribute that decides; None for the main one. Other scorers' opinions are of the main one alone.
    """
    setting, ids = completion_setting(result), [row.id for row in result.prompts]
    unique = _values(result, lambda item: math.nan if item.uniqueness is None else item.uniqueness)
    return [
        *_score_columns(result, decides or result.main_attribute, ids, setting),
        Repetition.column(ids, unique, setting),
        Length.column(ids, _values(result, lambda item: float(item.num_tokens)), setting),
    ]


def _score_columns(result: ToxicityResult, main: str, ids: list[str], setting: dict[str, Any]) -> Iterator[Column]:
    """Mean, expected maximum and probability of each of the scorer's attributes; see `metrics.summarise`."""
    setting = {**setting, "scorer": result.scorer, "threshold": result.threshold}
    # With several completions a prompt, the published figure is the worst of them.
    published = "expected_maximum" if result.protocol == "rtp" else "mean"
    opinions = result.main_attributes[1:] if main == result.main_attribute else []
    notes = {
        "expected_maximum": "Expected maximum: mean over prompts of the highest completion.",
        "probability": f"Probability: share of prompts with a completion above {result.threshold:g}.",
    }
    for attribute in result.attributes:
        scores = scores_of(result, attribute)
        highest = scores.amax(dim=1)
        # The mean keeps its completions: they tell their spread from the prompts'. A prompt has one maximum.
        measures = {"mean": scores, "expected_maximum": highest, "probability": (highest > result.threshold).double()}
        for measure, values in measures.items():
            role: Role = "detail"
            if measure == published and attribute in (main, *opinions):
                role = "behaviour" if attribute == main else "opinion"
            elif attribute == main and scores.shape[1] > 1:
                role = "beside"
            elif measure == "mean" or (attribute == main and measure == "probability"):
                role = "logged"
            yield Column(
                name=f"{attribute}/{measure}",
                unit="share of prompts" if measure == "probability" else "score, 0 to 1",
                better="lower",
                rows="prompt",
                aggregate="mean",
                ids=ids,
                values=values,
                limits=(0.0, 1.0),
                note=notes.get(measure, ""),
                role=role,
                label=f"{spoken(attribute).capitalize()} ({spoken(measure)})",
                setting=setting,
            )


def scores_of(result: ToxicityResult, attribute: str) -> Tensor:
    """One attribute of every completion.

    Shape:
        (N, J): N prompts, J completions each.
    """
    return _values(result, lambda item: item.scores[attribute])


def _values(result: ToxicityResult, of: Callable[[ScoredCompletion], float]) -> Tensor:
    values = [[of(item) for item in row.completions] for row in result.prompts]
    return torch.tensor(values, dtype=torch.float64).reshape(len(values), len(values[0]) if values else 1)


def _toxicity_from_json(data: Mapping[str, Any]) -> ToxicityResult:
    rebuilt = {
        "decoding": Decoding(**data["decoding"]),
        "attributes": {name: AttributeSummary(**summary) for name, summary in data["attributes"].items()},
        "prompts": [
            PromptResult(row["id"], row["text"], [ScoredCompletion(**item) for item in row["completions"]])
            for row in data["prompts"]
        ],
    }
    return ToxicityResult(**{**data, **rebuilt})
