"""Statistics of paired scores: the same prompts, or the same windows of a text, before and after.

Prompts are the unit: completions of one prompt are averaged first, and prompts are what the bootstrap resamples and the
sign-flip test flips. Of perplexity, windows are the unit. Everything is seeded and exact to repeat.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Scores = Tensor | Sequence[float] | Sequence[Sequence[float]]

# Numbers drawn at once: bounds memory at 32 MB whatever the number of prompts.
_CHUNK_ELEMENTS = 2**22
# exp of it is still a float64, and further from any language model than anything.
_MAX_LOSS = 700.0


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval of the change (after - before) of a mean, or of a perplexity."""

    low: float
    high: float
    confidence: float
    num_draws: int


def paired_bootstrap(
    before: Scores, after: Scores, num_draws: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Percentile interval of the mean change, resampling prompts with their pair.

    Args:
        before: scores before, a prompt each.
        after: scores of the same prompts after.
        num_draws: bootstrap samples.
        seed: of the draws.
        confidence: coverage wanted, in (0, 1).

    Shape:
        (N,) or (N, J) with J completions a prompt.

    Raises:
        ValueError: shapes differ, no prompts, a score that is not finite, or a confidence outside (0, 1).

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3 (percentile interval).
    """
    change = paired_change(before, after)
    return _bootstrap(len(change), lambda drawn: change[drawn].mean(dim=1), num_draws, seed, confidence)


def perplexity_bootstrap(
    before: Scores,
    after: Scores,
    num_scored: Sequence[int],
    num_draws: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of the change of a text's perplexity, resampling windows with their pair.

    Every scored token stands in one window, so that windows are the unit under either protocol: those of `sliding`
    share context, but no token's loss. They are taken as independent; in a text of few long documents the true interval
    is wider.

    Args:
        before: sum of token losses of each window before.
        after: the same windows' after.
        num_scored: scored tokens of each window.
        num_draws: bootstrap samples.
        seed: of the draws.
        confidence: coverage wanted, in (0, 1).

    Returns:
        The interval of exp(sum of losses after / tokens) - exp(sum of losses before / tokens).

    Shape:
        All (N,).

    Units:
        losses in nats, the interval in perplexity.

    Raises:
        ValueError: shapes differ, no windows, a loss that is not finite, or a confidence outside (0, 1).

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3 (percentile interval).
    """
    paired_change(before, after)
    columns = torch.tensor([list(before), list(after), list(num_scored)], dtype=torch.float64).T

    def change(drawn: Tensor) -> Tensor:
        old, new, tokens = columns[drawn].sum(dim=1).unbind(dim=1)
        # A draw of the worst windows of a broken model must not overflow: its results would be lost.
        return (new / tokens).clamp(max=_MAX_LOSS).exp() - (old / tokens).clamp(max=_MAX_LOSS).exp()

    return _bootstrap(len(columns), change, num_draws, seed, confidence)


def _bootstrap(
    num_units: int, statistic: Callable[[Tensor], Tensor], num_draws: int, seed: int, confidence: float
) -> Interval:
    """Percentile interval of a statistic of drawn units: `statistic` takes their numbers, (draws, N), a draw a row."""
    if not 0 < confidence < 1 or num_draws < 1:
        raise ValueError(
            f"`confidence` must lie between 0 and 1 and `num_draws` be at least 1, got {confidence} and {num_draws}."
        )
    drawn = [
        statistic(torch.randint(num_units, (rows, num_units), generator=generator))
        for rows, generator in _chunks(num_draws, num_units, seed)
    ]
    tail = (1 - confidence) / 2
    low, high = torch.quantile(torch.cat(drawn), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(low, high, confidence, num_draws)


def sign_flip_p_value(before: Scores, after: Scores, num_draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the mean change, under signs of the changes that could as well be the other way round.

    All 2^N sign patterns are counted where there are no more than `num_draws` of them; otherwise patterns are drawn
    and the observed one is counted among them, so that the value is never 0.

    Args:
        before: scores before.
        after: scores after.
        num_draws: patterns drawn.
        seed: of the draws.

    Shape:
        (N,) or (N, J).

    Source:
        Phipson and Smyth, Permutation p-values should never be zero, 2010.
    """
    change = paired_change(before, after)
    # Patterns that tie with the observed one differ from it by rounding only, and count as extreme.
    bar = abs(float(change.mean())) - 1e-12 * float(change.abs().mean())
    if len(change) < 63 and 2 ** len(change) <= num_draws:
        bits = torch.arange(2 ** len(change)).unsqueeze(1) >> torch.arange(len(change))
        return float(((_signs(bits & 1) * change).mean(dim=1).abs() >= bar).double().mean())
    extreme = 0
    for rows, generator in _chunks(num_draws, len(change), seed):
        signs = _signs(torch.randint(2, (rows, len(change)), generator=generator))
        extreme += int(((signs * change).mean(dim=1).abs() >= bar).sum())
    return (extreme + 1) / (num_draws + 1)


def share_improved(before: Scores, after: Scores, lower_is_better: bool = True) -> float:
    """Share of prompts whose score got better; unchanged ones did not.

    Shape:
        (N,) or (N, J).
    """
    change = paired_change(before, after)
    return float((change < 0 if lower_is_better else change > 0).double().mean())


def paired_change(before: Scores, after: Scores) -> Tensor:
    """After - before for each prompt, its completions averaged.

    Returns:
        float64 changes.

    Shape:
        (N,) or (N, J) in, (N,) out.

    Raises:
        ValueError: shapes differ, no prompts, or a score that is not finite.
    """
    old, new = (torch.as_tensor(scores, dtype=torch.float64).cpu() for scores in (before, after))
    if old.shape != new.shape or old.ndim not in (1, 2) or old.numel() == 0:
        raise ValueError(
            f"`before` and `after` must be scores of the same prompts, got shapes {tuple(old.shape)} and "
            f"{tuple(new.shape)}."
        )
    if not bool(old.isfinite().all() and new.isfinite().all()):
        raise ValueError("`before` and `after` must be finite; a failed score cannot be compared.")
    change = new - old
    return change.mean(dim=1) if change.ndim == 2 else change


def _signs(bits: Tensor) -> Tensor:
    return bits.double() * 2 - 1


def _chunks(num_draws: int, width: int, seed: int) -> Iterator[tuple[int, torch.Generator]]:
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _CHUNK_ELEMENTS // width)
    for start in range(0, num_draws, rows):
        yield min(rows, num_draws - start), generator
