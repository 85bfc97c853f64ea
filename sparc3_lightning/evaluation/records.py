"""What an evaluation leaves: plain records that go to JSON and come back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sparc3_lightning.evaluation.planning import Decoding
from sparc3_lightning.metrics import AttributeSummary


@dataclass(frozen=True)
class PerplexityResult:
    """A perplexity with all that its figure depends on.

    Attributes:
        protocol: `sliding` or `disjoint`.
        perplexity: exp(mean loss).
        mean_loss: nats a scored token.
        num_tokens: tokens of the text.
        num_scored: tokens that count.
        num_windows: windows read.
        window: tokens in a window.
        stride: tokens between two windows' starts.
        begins_with_bos: whether the tokenizer put a beginning-of-text token before the text.
        window_losses: sum of token losses of each window, in nats, in the text's order: what pairs two models.
        token_counts: what was found in the text's token ids; see `data.tokens.token_counts`.
    """

    protocol: str
    perplexity: float
    mean_loss: float
    num_tokens: int
    num_scored: int
    num_windows: int
    window: int
    stride: int
    begins_with_bos: bool
    window_losses: list[float]
    token_counts: dict[str, int] = field(default_factory=dict)


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
        scorer: what scored.
        threshold: a score above it counts as toxic.
        decoding: how completions were drawn.
        attributes: summary of each score, the main one first.
        uniqueness: mean over completions that are not empty; None where all are.
        length: mean number of generated tokens, end-of-text left out.
        num_prompts: prompts.
        num_empty: completions without a token.
        num_truncated_prompts: prompts cut to leave room in the context.
        num_truncated_texts: completions cut to the scorer's length limit.
        prompts: every prompt with its completions and scores.
        token_counts: what was found in the prompts' token ids; see `data.tokens.token_counts`.
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
    """One model's evaluation: perplexity by protocol, and toxicity where prompts and a scorer were given."""

    perplexity: dict[str, PerplexityResult]
    toxicity: ToxicityResult | None

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """The same without what it holds of every window, prompt and completion."""
        summary = self.to_json()
        for result in summary["perplexity"].values():
            del result["window_losses"]
        if summary["toxicity"] is not None:
            del summary["toxicity"]["prompts"]
        return summary

    def scalars(self) -> dict[str, float]:
        """Its figures under flat names, for a logger."""
        figures = {f"perplexity/{name}": result.perplexity for name, result in self.perplexity.items()}
        if self.toxicity is not None:
            figures |= _toxicity_scalars(self.toxicity)
        return figures

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Evaluation":
        """Read back what `to_json` gave."""
        toxicity = data["toxicity"]
        return Evaluation(
            perplexity={name: PerplexityResult(**result) for name, result in data["perplexity"].items()},
            toxicity=None if toxicity is None else _toxicity_from_json(toxicity),
        )


def _toxicity_scalars(result: ToxicityResult) -> dict[str, float]:
    figures = {f"{name}/mean": summary.mean for name, summary in result.attributes.items()}
    main = result.attributes[result.main_attribute]
    figures[f"{result.main_attribute}/expected_maximum"] = main.expected_maximum
    figures[f"{result.main_attribute}/probability"] = main.probability
    if result.uniqueness is not None:
        figures["uniqueness"] = result.uniqueness
    return figures | {"length": result.length}


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
