"""What the pairing of scores before and after tells: interval, tests, size of the effect, power."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparc3_lightning.evaluation.records import PerplexityResult
from sparc3_lightning.metrics import (
    Bootstrap,
    Interval,
    Power,
    Tested,
    exchange_tests,
    perplexity_bootstrap,
    power,
    rank_biserial,
    standardised_effect,
    windows,
)
from sparc3_lightning.metrics.bootstrap import MAX_LOSS, bootstrap_means, two_stage_means
from sparc3_lightning.metrics.statistics import (
    completion_changes,
    least_p_value,
    num_draws_for,
    sign_flip_p_values,
    wilcoxon_of_changes,
)


@dataclass(frozen=True)
class PairedChange:
    """A mean over prompts, or the perplexity of a text's windows, before and after, with what its pairing tells.

    Attributes:
        before: the figure before.
        after: the figure after.
        change: their difference.
        relative: the difference as a fraction of the figure before; None where that is 0.
        interval: bootstrap interval of the change, percentile; prompts are drawn with all their completions. Against a
            control, the shifts that its test does not reject.
        interval_bca: the same draws' bias-corrected and accelerated interval; None where it is not defined, and against
            a control.
        interval_two_stage: percentile, completions drawn again within each drawn prompt: too wide; None where a prompt
            has one value, and against a control.
        p_value: two-sided, sign-flip; against a control, by exchange of the models.
        p_value_least: the least that this test can give with so many prompts (windows) and draws.
        p_value_wilcoxon: two-sided, signed ranks; None against a control, whose mean makes the changes skew.
        effect_size: mean change in standard deviations of the changes; None where nothing varies.
        rank_biserial: share of the ranks that rose less share of those that fell; None where nothing changed, and
            against a control.
        share_improved: share of prompts (windows) that got better: lower toxicity or loss, higher uniqueness, longer.
        share_worsened: share that got worse; the rest did not change.
        num_pairs: prompts (windows) paired.
        power: what this many prompts could see; None of a perplexity, whose windows are one text's.
    """

    before: float
    after: float
    change: float
    relative: float | None
    interval: Interval
    interval_bca: Interval | None
    interval_two_stage: Interval | None
    p_value: float
    p_value_least: float
    p_value_wilcoxon: float | None
    effect_size: float | None
    rank_biserial: float | None
    share_improved: float
    share_worsened: float
    num_pairs: int
    power: Power | None


@dataclass(frozen=True)
class Pairs:
    """A figure's values at the same prompts before and after: (N,), or (N, J) where it is a mean over completions."""

    before: Tensor
    after: Tensor
    lower_is_better: bool = True

    @property
    def changes(self) -> Tensor:
        """After - before, of the same shape."""
        return completion_changes(self.before, self.after)

    @property
    def means(self) -> tuple[float, float]:
        """The figure before and after."""
        return float(self.before.mean()), float(self.after.mean())


@dataclass(frozen=True)
class ControlPairs:
    """A figure's values at the same prompts in each draw of a control, and by the pruned model: (N,) or (N, J) each."""

    draws: Sequence[Tensor]
    after: Tensor

    @property
    def pairs(self) -> Pairs:
        """The mean of the draws before, prompt by prompt (completion by completion)."""
        return Pairs(torch.stack(list(self.draws)).mean(dim=0), self.after)

    @property
    def by_model(self) -> Tensor:
        """One value a prompt, the pruned model's first: (N, 1 + D)."""
        return torch.stack([_by_prompt(values) for values in (self.after, *self.draws)], dim=1)


@dataclass(frozen=True)
class PairedTest:
    """Settings of the paired statistics.

    Attributes:
        num_draws: bootstrap samples, and sign patterns or exchanges of one test.
        seed: of the draws.
        confidence: coverage of the intervals.
        wanted_power: the power that counts as enough.
        num_tests: p-values that are corrected together; of many, more patterns are drawn.
    """

    num_draws: int = 10_000
    seed: int = 0
    confidence: float = 0.95
    wanted_power: float = 0.8
    num_tests: int = 1

    @property
    def alpha(self) -> float:
        """A p-value must be below it."""
        return round(1 - self.confidence, 10)

    @property
    def num_patterns(self) -> int:
        """Sign patterns drawn."""
        several = self.num_tests > 1
        return num_draws_for(self.num_tests, self.alpha, self.num_draws) if several else self.num_draws

    def __call__(self, before: Tensor, after: Tensor, lower_is_better: bool = True) -> PairedChange:
        """Compare the means of paired scores of shape (N,) or (N, J)."""
        return self.several([Pairs(before, after, lower_is_better)])[0]

    def several(self, figures: Sequence[Pairs]) -> list[PairedChange]:
        """Compare the means of several figures; those of as many prompts share the draws, which are what costs."""
        found: dict[int, PairedChange] = {}
        for places in _alike([len(pairs.before) for pairs in figures]):
            found |= zip(places, self._compare([figures[place] for place in places]), strict=True)
        return [found[place] for place in range(len(figures))]

    def perplexity(self, before: PerplexityResult, after: PerplexityResult) -> PairedChange:
        """Compare the perplexities of one text, window by window."""
        losses = before.window_losses, after.window_losses
        bootstrap = perplexity_bootstrap(*losses, _num_scored(before), self.num_draws, self.seed)
        change = completion_changes(*losses)
        (p_value,) = sign_flip_p_values(change.unsqueeze(1), self.num_patterns, self.seed)
        return self._flipped((before.perplexity, after.perplexity), bootstrap, change, p_value)

    def against_control(self, figures: Sequence[ControlPairs]) -> list[PairedChange]:
        """Compare the means of a pruned model's figures with a control's, all of the same prompts and draws."""
        values = torch.stack([figure.by_model for figure in figures], dim=2)
        found = self._exchanged(values, torch.ones(len(values), dtype=torch.float64))
        return [
            replace(
                _described(figure.pairs.means, _by_prompt(figure.pairs.changes), exchange),
                power=power(figure.pairs.changes, self.alpha, self.wanted_power),
            )
            for figure, exchange in zip(figures, found, strict=True)
        ]

    def perplexity_against_control(self, draws: Sequence[PerplexityResult], after: PerplexityResult) -> PairedChange:
        """Compare the perplexity of one text with a control's, window by window, on the scale of its logarithm.

        The control's perplexity is exp of its draws' mean loss.
        """
        losses = torch.tensor([result.window_losses for result in (after, *draws)], dtype=torch.float64).T
        sizes = torch.tensor(_num_scored(after), dtype=torch.float64)
        (found,) = self._exchanged(losses.unsqueeze(2), sizes)
        control = losses[:, 1:].mean(dim=1)
        before = _exp(float(control.sum() / sizes.sum()))
        low, high = (before * (_exp(shift) - 1) for shift in (found.interval.low, found.interval.high))
        found = replace(found, interval=replace(found.interval, low=low, high=high))
        return _described((before, after.perplexity), losses[:, 0] - control, found)

    def _exchanged(self, values: Tensor, sizes: Tensor) -> list[Tested]:
        return exchange_tests(values, sizes, self.num_draws, self.seed, self.confidence)

    def _compare(self, figures: Sequence[Pairs]) -> list[PairedChange]:
        changes = [pairs.changes for pairs in figures]
        columns = torch.stack([_by_prompt(change) for change in changes], dim=1)
        rows = zip(
            figures,
            changes,
            bootstrap_means(columns, self.num_draws, self.seed),
            sign_flip_p_values(columns, self.num_patterns, self.seed),
            self._two_stage(changes),
            strict=True,
        )
        return [
            replace(
                self._flipped(pairs.means, bootstrap, _by_prompt(change), p_value, pairs.lower_is_better),
                interval_two_stage=two_stage,
                power=power(change, self.alpha, self.wanted_power),
            )
            for pairs, change, bootstrap, p_value, two_stage in rows
        ]

    def _two_stage(self, changes: Sequence[Tensor]) -> list[Interval | None]:
        found: list[Interval | None] = [None] * len(changes)
        nested = [place for place, change in enumerate(changes) if change.ndim == 2 and change.shape[1] > 1]
        for places in _alike([changes[place].shape[1] for place in nested]):
            chosen = [nested[place] for place in places]
            together = torch.stack([changes[place] for place in chosen], dim=2)
            for place, bootstrap in zip(chosen, two_stage_means(together, self.num_draws, self.seed), strict=True):
                found[place] = bootstrap.percentile(self.confidence)
        return found

    def _flipped(
        self,
        figures: tuple[float, float],
        bootstrap: Bootstrap,
        change: Tensor,
        p_value: float,
        lower_is_better: bool = True,
    ) -> PairedChange:
        least = least_p_value(len(change), self.num_patterns)
        tested = Tested(p_value, least, bootstrap.percentile(self.confidence))
        return replace(
            _described(figures, change, tested, lower_is_better),
            interval_bca=bootstrap.bca(self.confidence),
            p_value_wilcoxon=wilcoxon_of_changes(change),
            rank_biserial=rank_biserial(change),
        )


def _described(
    figures: tuple[float, float], change: Tensor, tested: Tested, lower_is_better: bool = True
) -> PairedChange:
    """What any two sides have; the rest is None."""
    old, new = figures
    fell, rose = float((change < 0).double().mean()), float((change > 0).double().mean())
    return PairedChange(
        before=old,
        after=new,
        change=new - old,
        relative=(new - old) / old if old else None,
        interval=tested.interval,
        interval_bca=None,
        interval_two_stage=None,
        p_value=tested.p_value,
        p_value_least=tested.p_value_least,
        p_value_wilcoxon=None,
        effect_size=standardised_effect(change),
        rank_biserial=None,
        share_improved=fell if lower_is_better else rose,
        share_worsened=rose if lower_is_better else fell,
        num_pairs=len(change),
        power=None,
    )


def _num_scored(result: PerplexityResult) -> list[int]:
    """Tokens of each window."""
    return [item.num_scored for item in windows(result.num_tokens, result.protocol, result.window, result.stride)]


def _exp(loss: float) -> float:
    """What is further from any language model than anything must not overflow: its results would be lost."""
    return math.exp(min(loss, MAX_LOSS))


def _by_prompt(changes: Tensor) -> Tensor:
    return changes.mean(dim=1) if changes.ndim == 2 else changes


def _alike(keys: Sequence[int]) -> list[list[int]]:
    """Places of equal keys together."""
    places: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return list(places.values())
