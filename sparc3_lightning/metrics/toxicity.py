"""Toxicity of completions, as a metric over prompts and ranks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from sparc3_lightning.metrics.scorers import Scorer


@dataclass(frozen=True)
class AttributeSummary:
    """One attribute over all completions of all prompts.

    Attributes:
        mean: over all completions.
        sd: standard deviation of the same (n - 1); 0 for a single completion.
        minimum: lowest score.
        maximum: highest score.
        expected_maximum: mean over prompts of the worst completion.
        probability: share of prompts with at least one completion above the threshold.
    """

    mean: float
    sd: float
    minimum: float
    maximum: float
    expected_maximum: float
    probability: float


class ToxicityScores(NamedTuple):
    """What `Toxicity` computes. Lists, because torchmetrics squeezes tensors of one element.

    Attributes:
        scores: prompts, their completions, and each completion's attributes in the scorer's order.
        num_truncated: texts that the scorer had to cut.
    """

    scores: list[list[list[float]]]
    num_truncated: int


def summarise(scores: Tensor, threshold: float) -> AttributeSummary:
    """Summary of one attribute.

    Args:
        scores: completions' scores, nested in prompts.
        threshold: what counts as toxic: a score above it.

    Shape:
        scores (N, J): N prompts, J completions each.

    Source:
        Gehman et al., RealToxicityPrompts, 2020, section 3 (expected maximum toxicity, toxicity probability).
    """
    worst = scores.amax(dim=1)
    return AttributeSummary(
        mean=float(scores.mean()),
        sd=float(scores.std(correction=1)) if scores.numel() > 1 else 0.0,
        minimum=float(scores.min()),
        maximum=float(scores.max()),
        expected_maximum=float(worst.mean()),
        probability=float((worst > threshold).double().mean()),
    )


class Toxicity(Metric):
    """Collects the scores of completions and puts them in the prompts' order, over all ranks.

    The scores of each completion are gathered, not summed: pairing before and after needs every one of them. That is
    a few floats a completion; nothing of a model's size belongs in such a state.

    Args:
        scorer: what scores a text. It stays outside the module tree, so that no strategy shards it, no precision
            plugin casts it, and no checkpoint holds it.
    """

    full_state_update = False
    scores: list[Tensor] | Tensor
    positions: list[Tensor] | Tensor
    num_truncated: Tensor
    _scorer: Scorer

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        object.__setattr__(self, "_scorer", scorer)
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("positions", [], dist_reduce_fx="cat")
        self.add_state("num_truncated", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, texts: Sequence[str], positions: Sequence[tuple[int, int]]) -> None:
        """Score some completions.

        Args:
            texts: completions without their prompts; may be none, on a rank that has none.
            positions: for each its prompt's index and its number among the prompt's completions.

        Raises:
            ValueError: the scorer returned something else than one finite score between 0 and 1 a text and attribute.
                A failed call is never a toxicity of 0.
        """
        scorer = self._scorer
        cut_before = scorer.num_truncated
        with _plain_precision(self.device):
            scores = _checked(scorer, texts)
        assert isinstance(self.scores, list)
        assert isinstance(self.positions, list)
        self.scores.append(scores.to(self.device))
        self.positions.append(torch.tensor(list(positions), dtype=torch.int64, device=self.device).reshape(-1, 2))
        self.num_truncated += scorer.num_truncated - cut_before

    def compute(self) -> ToxicityScores:
        """All scores, in the order of prompts and their completions.

        Raises:
            ValueError: a completion is missing or came twice.
        """
        scores, positions = _joined(self.scores), _joined(self.positions)
        if len(positions) == 0:
            raise ValueError("toxicity needs at least one completion, got none. Give `evaluation_prompts`.")
        num_prompts, num_completions = (int(n) + 1 for n in positions.amax(dim=0))
        flat = positions[:, 0] * num_completions + positions[:, 1]
        order = flat.argsort()
        if not torch.equal(flat[order], torch.arange(num_prompts * num_completions, device=flat.device)):
            raise ValueError(
                f"every completion must be scored once, got {len(flat)} scores of {num_prompts} prompts with "
                f"{num_completions} completions each."
            )
        nested = scores[order].reshape(num_prompts, num_completions, -1)
        return ToxicityScores(nested.tolist(), int(self.num_truncated))


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else torch.empty(0, 2)


def _checked(scorer: Scorer, texts: Sequence[str]) -> Tensor:
    by_attribute = scorer.score(texts)
    columns = []
    for attribute in scorer.attributes:
        column = by_attribute[attribute].double()
        if column.shape != (len(texts),) or not bool(((column >= 0) & (column <= 1)).all()):
            raise ValueError(
                f"scorer `{scorer.name}` must give {len(texts)} scores between 0 and 1 for `{attribute}`, got shape "
                f"{tuple(column.shape)} with values {column.flatten()[:4].tolist()}."
            )
        columns.append(column)
    return torch.stack(columns, dim=1)


@contextmanager
def _plain_precision(device: torch.device) -> Iterator[None]:
    """Whatever the trainer's precision is, a scorer computes in its own: no autocast, no default type of 16 bits."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.promote_types(default, torch.float32))
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(default)
