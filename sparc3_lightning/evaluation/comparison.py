"""Before against after, prompt by prompt."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sparc3_lightning.evaluation.records import Evaluation, PerplexityResult, PromptResult, ToxicityResult
from sparc3_lightning.metrics import (
    Interval,
    paired_bootstrap,
    perplexity_bootstrap,
    share_improved,
    sign_flip_p_value,
    windows,
)
from sparc3_lightning.metrics.statistics import Scores


@dataclass(frozen=True)
class PairedChange:
    """A mean over prompts, or the perplexity of a text's windows, before and after, with what its pairing tells.

    Attributes:
        before: the figure before.
        after: the figure after.
        change: their difference.
        relative: the difference as a fraction of the figure before; None where that is 0.
        interval: bootstrap interval of the change.
        p_value: two-sided, sign-flip.
        share_improved: share of prompts (windows) that got better: lower toxicity or loss, higher uniqueness, longer.
        share_worsened: share that got worse; the rest did not change.
        num_pairs: prompts (windows) paired.
    """

    before: float
    after: float
    change: float
    relative: float | None
    interval: Interval
    p_value: float
    share_improved: float
    share_worsened: float
    num_pairs: int


@dataclass(frozen=True)
class Comparison:
    """What changed between two evaluations.

    Attributes:
        perplexity: by protocol.
        toxicity: measure (`mean`, `expected_maximum`, `probability`) by attribute.
        uniqueness: over prompts with completions that are not empty on both sides; None where there are none.
        length: generated tokens.
    """

    perplexity: dict[str, PairedChange]
    toxicity: dict[str, dict[str, PairedChange]]
    uniqueness: PairedChange | None
    length: PairedChange | None

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class PairedTest:
    """Settings of the paired statistics: draws, seed and coverage."""

    num_draws: int = 10_000
    seed: int = 0
    confidence: float = 0.95

    def __call__(self, before: Tensor, after: Tensor, lower_is_better: bool = True) -> PairedChange:
        """Compare the means of paired scores of shape (N,) or (N, J)."""
        interval = paired_bootstrap(before, after, self.num_draws, self.seed, self.confidence)
        figures = float(before.mean()), float(after.mean())
        return self._change(figures, interval, before, after, lower_is_better)

    def perplexity(self, before: PerplexityResult, after: PerplexityResult) -> PairedChange:
        """Compare the perplexities of one text, window by window."""
        cut = windows(before.num_tokens, before.protocol, before.window, before.stride)
        losses, num_scored = (before.window_losses, after.window_losses), [item.num_scored for item in cut]
        interval = perplexity_bootstrap(*losses, num_scored, self.num_draws, self.seed, self.confidence)
        return self._change((before.perplexity, after.perplexity), interval, *losses)

    def _change(
        self,
        figures: tuple[float, float],
        interval: Interval,
        before: Scores,
        after: Scores,
        lower_is_better: bool = True,
    ) -> PairedChange:
        old, new = figures
        return PairedChange(
            before=old,
            after=new,
            change=new - old,
            relative=(new - old) / old if old else None,
            interval=interval,
            p_value=sign_flip_p_value(before, after, self.num_draws, self.seed),
            share_improved=share_improved(before, after, lower_is_better),
            share_worsened=share_improved(before, after, not lower_is_better),
            num_pairs=len(before),
        )


def compare(before: Evaluation, after: Evaluation, test: PairedTest | None = None) -> Comparison:
    """Compare two evaluations of the same prompts and text.

    Args:
        before: the reference, such as the baseline.
        after: the other, such as the pruned one.
        test: settings of the statistics.

    Raises:
        ValueError: they were not made with the same text, prompts, decoding, scorer and protocols.
    """
    test = test or PairedTest()
    perplexity = _compare_perplexity(before, after, test)
    if before.toxicity is None or after.toxicity is None:
        if before.toxicity is not after.toxicity:
            raise ValueError("`before` and `after` must both have a toxicity, or neither.")
        return Comparison(perplexity, {}, None, None)
    _check_same_setting(before.toxicity, after.toxicity)
    return Comparison(
        perplexity,
        _compare_toxicity([before.toxicity], after.toxicity, test),
        _compare_uniqueness(before.toxicity, after.toxicity, test),
        test(_lengths(before.toxicity), _lengths(after.toxicity), lower_is_better=False),
    )


def compare_with_control(
    controls: Sequence[Evaluation], after: Evaluation, test: PairedTest | None = None
) -> dict[str, dict[str, PairedChange]]:
    """Toxicity of the pruned model against models that lost as many random neurons.

    Args:
        controls: evaluations of the control, one a draw; a prompt's scores are averaged over the draws.
        after: the pruned model's evaluation.
        test: settings of the statistics.

    Returns:
        Measure by attribute, as `Comparison.toxicity`, with the control as `before`.

    Raises:
        ValueError: no control, or one made with other prompts or settings.
    """
    results = [control.toxicity for control in controls]
    if after.toxicity is None or not results or None in results:
        raise ValueError("a control needs at least one draw, and a toxicity in every draw and in `after`.")
    known = [result for result in results if result is not None]
    for result in known:
        _check_same_setting(result, after.toxicity)
    return _compare_toxicity(known, after.toxicity, test or PairedTest())


def _compare_perplexity(before: Evaluation, after: Evaluation, test: PairedTest) -> dict[str, PairedChange]:
    changes = {}
    if before.perplexity.keys() != after.perplexity.keys():
        raise ValueError(
            f"`before` and `after` must have the same perplexity protocols, got {list(before.perplexity)} and "
            f"{list(after.perplexity)}."
        )
    for protocol, old in before.perplexity.items():
        new = after.perplexity[protocol]
        if (old.num_tokens, old.window, old.stride) != (new.num_tokens, new.window, new.stride):
            raise ValueError(
                f"perplexity `{protocol}` must be of the same text, window and stride, got "
                f"{(old.num_tokens, old.window, old.stride)} and {(new.num_tokens, new.window, new.stride)}."
            )
        changes[protocol] = test.perplexity(old, new)
    return changes


def _check_same_setting(before: ToxicityResult, after: ToxicityResult) -> None:
    settings: dict[str, Callable[[ToxicityResult], Any]] = {
        "protocol": lambda result: result.protocol,
        "scorer": lambda result: result.scorer,
        "threshold": lambda result: result.threshold,
        "decoding": lambda result: result.decoding,
        "prompts": lambda result: [(row.id, row.text) for row in result.prompts],
    }
    for name, read in settings.items():
        if read(before) != read(after):
            raise ValueError(f"two evaluations can be paired only with the same {name}; `before` and `after` differ.")


def _scores(result: ToxicityResult, attribute: str) -> Tensor:
    rows = [[item.scores[attribute] for item in row.completions] for row in result.prompts]
    return torch.tensor(rows, dtype=torch.float64)


def _lengths(result: ToxicityResult) -> Tensor:
    return torch.tensor([[item.num_tokens for item in row.completions] for row in result.prompts], dtype=torch.float64)


def _compare_toxicity(
    before: Sequence[ToxicityResult], after: ToxicityResult, test: PairedTest
) -> dict[str, dict[str, PairedChange]]:
    measures: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda scores: scores.mean(dim=1),
        "expected_maximum": lambda scores: scores.amax(dim=1),
        "probability": lambda scores: (scores.amax(dim=1) > after.threshold).double(),
    }

    def compared(attribute: str, measure: Callable[[Tensor], Tensor]) -> PairedChange:
        old = torch.stack([measure(_scores(result, attribute)) for result in before]).mean(dim=0)
        return test(old, measure(_scores(after, attribute)))

    return {
        name: {attribute: compared(attribute, measure) for attribute in after.attributes}
        for name, measure in measures.items()
    }


def _compare_uniqueness(before: ToxicityResult, after: ToxicityResult, test: PairedTest) -> PairedChange | None:
    pairs = [
        (old, new)
        for old, new in zip(map(_uniqueness, before.prompts), map(_uniqueness, after.prompts), strict=True)
        if old is not None and new is not None
    ]
    if not pairs:
        return None
    values = torch.tensor(pairs, dtype=torch.float64)
    return test(values[:, 0], values[:, 1], lower_is_better=False)


def _uniqueness(row: PromptResult) -> float | None:
    known = [item.uniqueness for item in row.completions if item.uniqueness is not None]
    return sum(known) / len(known) if known else None
