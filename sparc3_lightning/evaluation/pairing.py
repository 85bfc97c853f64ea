"""What the pairing of scores before and after tells: interval, tests, size of the effect, power."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparc3_lightning.evaluation.records import PerplexityResult
from sparc3_lightning.metrics import (
    Bootstrap,
    Interval,
    Power,
    perplexity_bootstrap,
    power,
    rank_biserial,
    standardised_effect,
    windows,
)
from sparc3_lightning.metrics.bootstrap import bootstrap_means, two_stage_means
from sparc3_lightning.metrics.statistics import completion_changes, sign_flip_p_values, signed_ranks


@dataclass(frozen=True)
class PairedChange:
    """A mean over prompts, or the perplexity of a text's windows, before and after, with what its pairing tells.

    Attributes:
        before: the figure before.
        after: the figure after.
        change: their difference.
        relative: the difference as a fraction of the figure before; None where that is 0.
        interval: bootstrap interval of the change, percentile; prompts are drawn with all their completions.
        interval_bca: the same draws' bias-corrected and accelerated interval; None where it is not defined.
        interval_two_stage: percentile, completions drawn again within each drawn prompt: too wide; None where a prompt
            has one value.
        p_value: two-sided, sign-flip.
        p_value_wilcoxon: two-sided, signed ranks.
        effect_size: mean change in standard deviations of the changes; None where nothing varies.
        rank_biserial: share of the ranks that rose less share of those that fell; None where nothing changed.
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
    p_value_wilcoxon: float
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
class PairedTest:
    """Settings of the paired statistics: draws, seed, coverage, and the power that counts as enough."""

    num_draws: int = 10_000
    seed: int = 0
    confidence: float = 0.95
    wanted_power: float = 0.8

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
        cut = windows(before.num_tokens, before.protocol, before.window, before.stride)
        losses, num_scored = (before.window_losses, after.window_losses), [item.num_scored for item in cut]
        bootstrap = perplexity_bootstrap(*losses, num_scored, self.num_draws, self.seed)
        change = completion_changes(*losses)
        (p_values,) = self._p_values(change.unsqueeze(1))
        return self._change((before.perplexity, after.perplexity), bootstrap, change, p_values)

    def _compare(self, figures: Sequence[Pairs]) -> list[PairedChange]:
        changes = [pairs.changes for pairs in figures]
        columns = torch.stack([_by_prompt(change) for change in changes], dim=1)
        rows = zip(
            figures,
            changes,
            bootstrap_means(columns, self.num_draws, self.seed),
            self._p_values(columns),
            self._two_stage(changes),
            strict=True,
        )
        return [
            replace(
                self._change(pairs.means, bootstrap, _by_prompt(change), p_values, pairs.lower_is_better),
                interval_two_stage=two_stage,
                power=power(change, round(1 - self.confidence, 10), self.wanted_power),
            )
            for pairs, change, bootstrap, p_values, two_stage in rows
        ]

    def _p_values(self, columns: Tensor) -> list[tuple[float, float]]:
        """Sign-flip and signed-rank p-value of each column, all under the same signs."""
        ranks = torch.stack([signed_ranks(column) for column in columns.unbind(1)], dim=1)
        both = sign_flip_p_values(torch.cat([columns, ranks], dim=1), self.num_draws, self.seed)
        return list(zip(both[: columns.shape[1]], both[columns.shape[1] :], strict=True))

    def _two_stage(self, changes: Sequence[Tensor]) -> list[Interval | None]:
        found: list[Interval | None] = [None] * len(changes)
        nested = [place for place, change in enumerate(changes) if change.ndim == 2 and change.shape[1] > 1]
        for places in _alike([changes[place].shape[1] for place in nested]):
            chosen = [nested[place] for place in places]
            together = torch.stack([changes[place] for place in chosen], dim=2)
            for place, bootstrap in zip(chosen, two_stage_means(together, self.num_draws, self.seed), strict=True):
                found[place] = bootstrap.percentile(self.confidence)
        return found

    def _change(
        self,
        figures: tuple[float, float],
        bootstrap: Bootstrap,
        change: Tensor,
        p_values: tuple[float, float],
        lower_is_better: bool = True,
    ) -> PairedChange:
        old, new = figures
        fell, rose = float((change < 0).double().mean()), float((change > 0).double().mean())
        return PairedChange(
            before=old,
            after=new,
            change=new - old,
            relative=(new - old) / old if old else None,
            interval=bootstrap.percentile(self.confidence),
            interval_bca=bootstrap.bca(self.confidence),
            interval_two_stage=None,
            p_value=p_values[0],
            p_value_wilcoxon=p_values[1],
            effect_size=standardised_effect(change),
            rank_biserial=rank_biserial(change),
            share_improved=fell if lower_is_better else rose,
            share_worsened=rose if lower_is_better else fell,
            num_pairs=len(change),
            power=None,
        )


def _by_prompt(changes: Tensor) -> Tensor:
    return changes.mean(dim=1) if changes.ndim == 2 else changes


def _alike(keys: Sequence[int]) -> list[list[int]]:
    """Places of equal keys together."""
    places: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return list(places.values())
