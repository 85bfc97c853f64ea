"""Bootstrap intervals of paired scores: prompts, or windows of a text, are drawn with what they had before and after.

Draws and intervals are scipy's, but for completions that are drawn within their prompts, which it cannot.

The completions of a prompt are nested in it, and nested data can be drawn in two ways. `bootstrap_means`: a drawn
prompt brings all its completions, as they are. The variance of the mean is then right but for a factor (N - 1) / N,
whatever share of it is the completions' luck: results rest on this one. `two_stage_means`: each drawn prompt's
completions are drawn again. That counts their luck twice, since the prompts' means hold it already, and the interval is
up to 1.4 times too wide: one of 95 % covers the truth in 99 of 100 runs.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from sparc3_lightning.metrics.measure import MAX_LOSS

Values = NDArray[np.float64]
Scores = Tensor | Sequence[float] | Sequence[Sequence[float]]

# Bytes of one block of draws, whatever the number of prompts and draws.
_BLOCK_BYTES = 256 * 2**20


def block_rows(width: int) -> int:
    """Rows of so many float64 that a block of draws may have."""
    return max(1, _BLOCK_BYTES // (8 * width))


def paired_change(before: Scores, after: Scores) -> Tensor:
    """After - before of each value: completion j of a prompt meets the same noise on both sides.

    Shape:
        (N,) or (N, J) in and out.

    Raises:
        ValueError: Shapes differ, no prompts, or a score that is not finite.
    """
    old, new = (torch.as_tensor(scores, dtype=torch.float64).cpu() for scores in (before, after))
    if old.shape != new.shape or old.ndim not in (1, 2) or old.numel() == 0:
        raise ValueError(
            f"`before` and `after` must be scores of the same prompts, got shapes {tuple(old.shape)} and "
            f"{tuple(new.shape)}."
        )
    if not bool(old.isfinite().all() and new.isfinite().all()):
        raise ValueError("`before` and `after` must be finite; a failed score cannot be compared.")
    return new - old


@dataclass(frozen=True)
class Interval:
    """An interval of the change (after - before) of a mean, or of a perplexity, and the draws that it was made of."""

    low: float
    high: float
    confidence: float
    num_draws: int


@dataclass(frozen=True)
class Bootstrap:
    """A figure in every draw, and what it is a figure of.

    Attributes:
        draws: The figure in each draw.
        data: What was drawn, unit by unit.
        statistic: The figure of such data.

    Shape:
        draws (B,), data (N,) each.
    """

    draws: Values
    data: tuple[Values, ...]
    statistic: Callable[..., Values]

    @classmethod
    def of(cls, data: tuple[Values, ...], statistic: Callable[..., Values], num_draws: int, seed: int) -> "Bootstrap":
        """Draw units, each with all its data.

        Args:
            data: Unit by unit.
            statistic: The figure of such data, along `axis`.
            num_draws: Bootstrap samples.
            seed: Of the draws.

        Raises:
            ValueError: No draw.
        """
        return cls(_drawn(data, statistic, num_draws, seed), data, statistic)

    @property
    def figure(self) -> float:
        """The figure of the data as they are."""
        return float(self.statistic(*self.data, axis=-1))

    def percentile(self, confidence: float = 0.95) -> Interval:
        """The quantiles of the draws.

        Source:
            Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
        """
        return self._interval("percentile", confidence)

    def bca(self, confidence: float = 0.95) -> Interval | None:
        """The bias-corrected and accelerated interval: other quantiles of the draws, where they are off centre or skew.

        None where it is not defined: nothing varies, or the figure lies beyond all draws.

        Source:
            Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 14.3 (equations 14.9 to 14.15).
        """
        varies = np.ptp(self.draws) > 1e-12 * np.abs(self.draws).max()
        found = self._interval("BCa", confidence) if varies else None
        return found if found is not None and math.isfinite(found.low) and math.isfinite(found.high) else None

    def _interval(self, method: Literal["percentile", "BCa"], confidence: float) -> Interval:
        if not 0 < confidence < 1:
            raise ValueError(
                f"`confidence` must lie between 0 and 1, got {confidence}. Set `Evaluator.init_args.confidence`."
            )
        found = _scipys(
            self.data, self.statistic, method=method, confidence_level=confidence, n_resamples=0,
            bootstrap_result=SimpleNamespace(bootstrap_distribution=self.draws),
        ).confidence_interval  # fmt: skip
        return Interval(float(found.low), float(found.high), confidence, len(self.draws))


def bootstrap_means(columns: Tensor, num_draws: int = 10_000, seed: int = 0) -> list[Bootstrap]:
    """Bootstrap of the mean of every column of changes: the same prompts are drawn, with all their completions.

    Shape:
        (N, M).

    Raises:
        ValueError: No draw.

    Source:
        Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8 (the first strategy); Field and
        Welsh, Bootstrapping clustered data, 2007 (the cluster bootstrap, consistent with random effects).
    """
    values = columns.T.contiguous().numpy()
    draws = _drawn((values,), partial(_mean, largest=_largest(values)), num_draws, seed)
    return [_of_mean(*row) for row in zip(draws, values, strict=True)]


def _of_mean(draws: Values, column: Values) -> Bootstrap:
    return Bootstrap(draws, (column,), partial(_mean, largest=_largest(column)[0]))


def _mean(values: Values, largest: Values, axis: int) -> Values:
    """Means that tie do so, whatever the order that they were summed in: BCa counts half of those."""
    means: Values = (values.mean(axis) / largest).round(12) * largest
    return means


def _largest(values: Values) -> Values:
    largest: Values = np.abs(values).max(axis=-1, keepdims=True).clip(min=np.finfo(float).tiny)
    return largest


def two_stage_means(changes: Tensor, num_draws: int = 10_000, seed: int = 0) -> list[Bootstrap]:
    """Bootstrap of mean changes, drawing prompts, and completions within each drawn prompt, both with replacement.

    Wider than `bootstrap_means` by the luck of the completions, which it counts twice: an upper bound. Of means only: a
    prompt's completions, drawn with replacement, miss their highest one in a third of the draws or more, so that an
    expected maximum would be drawn too low.

    Shape:
        (N, J, M): prompts, completions, figures.

    Source:
        Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8 (the second strategy).
    """
    num_prompts, num_completions, _ = changes.shape
    flat, drawn = changes.flatten(0, 1), []
    generator, at_once = torch.Generator().manual_seed(seed), block_rows(8 * len(flat))
    for start in range(0, _checked(num_draws), at_once):
        rows = min(at_once, num_draws - start)
        prompts = torch.randint(num_prompts, (rows, num_prompts, 1), generator=generator)
        places = torch.randint(num_completions, (rows, num_prompts, num_completions), generator=generator)
        drawn.append(_counts(places.add_(prompts * num_completions).flatten(1)) @ flat / len(flat))
    draws, means = torch.cat(drawn).T.contiguous().numpy(), changes.mean(dim=1).T.contiguous().numpy()
    return [_of_mean(*row) for row in zip(draws, means, strict=True)]


def unit_weights(units: Sequence[str], num_draws: int = 10_000, seed: int = 0) -> Values:
    """How much each value counts in each bootstrap sample of units, each of which brings all its values.

    Means of many columns are then one product of matrices: in each sample the same units are drawn for all.

    Args:
        units: Name of each value's unit.
        num_draws: Bootstrap samples.
        seed: Of the draws.

    Shape:
        (B, N), rows add up to 1.

    Raises:
        ValueError: No draw.
    """
    place_of = {name: place for place, name in enumerate(dict.fromkeys(units))}
    generator = torch.Generator().manual_seed(seed)
    counts = _counts(torch.randint(len(place_of), (_checked(num_draws), len(place_of)), generator=generator))
    weights = counts[:, [place_of[name] for name in units]]
    found: Values = (weights / weights.sum(1, keepdim=True)).numpy()
    return found


def perplexity_bootstrap(
    before: Scores, after: Scores, num_scored: Scores, num_draws: int = 10_000, seed: int = 0
) -> Bootstrap:
    """Bootstrap of the change of a text's perplexity, drawing windows with their pair.

    Every scored token stands in one window, so that windows are the unit under either protocol: those of `sliding`
    share context, but no token's loss. They are taken as independent; in a text of few long documents the true interval
    is wider.

    Args:
        before: Sum of token losses of each window before.
        after: The same windows' after.
        num_scored: Scored tokens of each window.
        num_draws: Bootstrap samples.
        seed: Of the draws.

    Returns:
        That of exp(sum of losses after / tokens) - exp(sum of losses before / tokens).

    Shape:
        All (N,).

    Units:
        losses in nats, the figures in perplexity.

    Raises:
        ValueError: Shapes differ, no windows, a loss that is not finite, or no draw.
    """
    paired_change(before, after)
    data = tuple(np.asarray(values, dtype=np.float64) for values in (before, after, num_scored))
    return Bootstrap.of(data, _perplexity_change, num_draws, seed)


def _perplexity_change(before: Values, after: Values, num_scored: Values, axis: int) -> Values:
    """From losses before, losses after, and tokens, summed over windows."""
    tokens = num_scored.sum(axis)
    # A draw of the worst windows of a broken model must not overflow: its results would be lost.
    old, new = (np.exp(np.minimum(losses.sum(axis) / tokens, MAX_LOSS)) for losses in (before, after))
    change: Values = new - old
    return change


def _drawn(data: tuple[Values, ...], statistic: Callable[..., Values], num_draws: int, seed: int) -> Values:
    """The figure in each draw: (..., N) to (..., B), every row of the data in the same draws."""
    num_rows, num_units = data[0].size // data[0].shape[-1], data[0].shape[-1]
    drawn: Values = _scipys(
        data, statistic, method="percentile", n_resamples=_checked(num_draws),
        batch=block_rows((1 + 2 * len(data) * num_rows) * num_units), rng=np.random.default_rng(seed),
    ).bootstrap_distribution  # fmt: skip
    return drawn


def _scipys(data: tuple[Values, ...], statistic: Callable[..., Values], **options: Any) -> Any:
    # scipy asks for two units at least; one unit and its twin have the figure of the one, in every draw.
    pairs = tuple(np.repeat(values, 2, axis=-1) if values.shape[-1] == 1 else values for values in data)
    with warnings.catch_warnings():
        # What is not defined, or too large for a standard error, is not a number; `bca` answers for that.
        warnings.simplefilter("ignore")
        return stats.bootstrap(pairs, statistic, paired=True, vectorized=True, axis=-1, **options)


def _counts(drawn: Tensor) -> Tensor:
    """How often each unit came in each row of drawn numbers."""
    one = torch.ones((), dtype=torch.float64)
    return torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(1, drawn, one.expand(drawn.shape))


def _checked(num_draws: int) -> int:
    if num_draws < 1:
        raise ValueError(f"`num_draws` must be at least 1, got {num_draws}. Set `Evaluator.init_args.num_draws`.")
    return num_draws
