"""Statistics of paired scores: the same prompts before and after.

Prompts are the unit: completions of one prompt are averaged first, and prompts are what the bootstrap resamples and the
sign-flip test flips. Everything is seeded and exact to repeat.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Scores = Tensor | Sequence[float] | Sequence[Sequence[float]]

# Numbers drawn at once: bounds memory at 32 MB whatever the number of prompts.
_CHUNK_ELEMENTS = 2**22


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval of the mean change (after - before)."""

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
    if not 0 < confidence < 1 or num_draws < 1:
        raise ValueError(
            f"`confidence` must lie between 0 and 1 and `num_draws` be at least 1, got {confidence} and {num_draws}."
        )
    change = paired_change(before, after)
    means = [
        change[torch.randint(len(change), (rows, len(change)), generator=generator)].mean(dim=1)
        for rows, generator in _chunks(num_draws, len(change), seed)
    ]
    tail = (1 - confidence) / 2
    low, high = torch.quantile(torch.cat(means), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
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
