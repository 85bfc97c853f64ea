"""Before against after, prompt by prompt."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sparc3_lightning.evaluation.pairing import ControlPairs, PairedChange, PairedTest, Pairs
from sparc3_lightning.evaluation.records import Evaluation, PromptResult, ToxicityResult

__all__ = ["Comparison", "PairedChange", "PairedTest", "compare", "compare_with_control", "scores_of"]


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
    old, new = _toxicity_scores(before.toxicity), _toxicity_scores(after.toxicity)
    pairs = {name: Pairs(old[name], values) for name, values in new.items()}
    pairs["length",] = Pairs(_lengths(before.toxicity), _lengths(after.toxicity), lower_is_better=False)
    uniqueness = _uniqueness_pairs(before.toxicity, after.toxicity)
    pairs |= {} if uniqueness is None else {("uniqueness",): uniqueness}
    changes = dict(zip(pairs, test.several(list(pairs.values())), strict=True))
    return Comparison(perplexity, _by_measure(changes), changes.get(("uniqueness",)), changes["length",])


def compare_with_control(
    controls: Sequence[Evaluation], after: Evaluation, test: PairedTest | None = None
) -> dict[str, dict[str, PairedChange]]:
    """The pruned model against models that lost as many random neurons; see `metrics.exchange`.

    Args:
        controls: evaluations of the control, one a draw.
        after: the pruned model's evaluation.
        test: settings of the statistics.

    Returns:
        Toxicity: measure by attribute, as `Comparison.toxicity`, with the mean of the draws as `before`; under
        `perplexity`, by protocol, with exp of the draws' mean loss as `before`.

    Raises:
        ValueError: no control, or one made with another text, other prompts or settings.
    """
    test = test or PairedTest()
    if not controls or any((control.toxicity is None) != (after.toxicity is None) for control in controls):
        raise ValueError("a control needs at least one draw, and a toxicity in every draw where `after` has one.")
    for control in controls:
        _check_same_text(control, after)
    found = {
        protocol: test.perplexity_against_control([control.perplexity[protocol] for control in controls], result)
        for protocol, result in after.perplexity.items()
    }
    changes = {"perplexity": found} if found else {}
    known = [control.toxicity for control in controls if control.toxicity is not None]
    if after.toxicity is None or not known:
        return changes
    for result in known:
        _check_same_setting(result, after.toxicity)
    draws, new = [_toxicity_scores(result) for result in known], _toxicity_scores(after.toxicity)
    figures = {name: ControlPairs([draw[name] for draw in draws], values) for name, values in new.items()}
    tested = dict(zip(figures, test.against_control(list(figures.values())), strict=True))
    return changes | _by_measure(tested)


def _compare_perplexity(before: Evaluation, after: Evaluation, test: PairedTest) -> dict[str, PairedChange]:
    _check_same_text(before, after)
    return {protocol: test.perplexity(old, after.perplexity[protocol]) for protocol, old in before.perplexity.items()}


def _check_same_text(before: Evaluation, after: Evaluation) -> None:
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


def scores_of(prompts: Sequence[PromptResult], attribute: str) -> Tensor:
    """One attribute of every completion.

    Shape:
        (N, J): N prompts, J completions each.
    """
    return torch.tensor([[item.scores[attribute] for item in row.completions] for row in prompts], dtype=torch.float64)


def _lengths(result: ToxicityResult) -> Tensor:
    return torch.tensor([[item.num_tokens for item in row.completions] for row in result.prompts], dtype=torch.float64)


def _toxicity_scores(result: ToxicityResult) -> dict[tuple[str, ...], Tensor]:
    """Values at each prompt by measure and attribute."""
    # The mean keeps its completions: they tell their spread from the prompts'. A prompt has one maximum.
    measures: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda scores: scores,
        "expected_maximum": lambda scores: scores.amax(dim=1),
        "probability": lambda scores: (scores.amax(dim=1) > result.threshold).double(),
    }
    return {
        (name, attribute): measure(scores_of(result.prompts, attribute))
        for attribute in result.attributes
        for name, measure in measures.items()
    }


def _by_measure(changes: dict[tuple[str, ...], PairedChange]) -> dict[str, dict[str, PairedChange]]:
    nested: dict[str, dict[str, PairedChange]] = {}
    for (measure, *attribute), change in changes.items():
        if attribute:
            nested.setdefault(measure, {})[attribute[0]] = change
    return nested


def _uniqueness_pairs(before: ToxicityResult, after: ToxicityResult) -> Pairs | None:
    pairs = [
        (old, new)
        for old, new in zip(map(_uniqueness, before.prompts), map(_uniqueness, after.prompts), strict=True)
        if old is not None and new is not None
    ]
    if not pairs:
        return None
    old_values, new_values = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    return Pairs(old_values, new_values, lower_is_better=False)


def _uniqueness(row: PromptResult) -> float | None:
    known = [item.uniqueness for item in row.completions if item.uniqueness is not None]
    return sum(known) / len(known) if known else None
