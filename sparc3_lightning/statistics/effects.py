"""How large a paired change is, and how many prompts it takes to see it."""

import math
from dataclasses import dataclass

import torch
from statsmodels.stats.power import TTestPower
from torch import Tensor

from sparc3_lightning.statistics.p_values import signed_ranks

# What protocol `rtp` draws: the number that another run is planned with.
MANY_COMPLETIONS = 25

_NO_CHANGE = "no change was found, so that no number of prompts would show it"
_NO_SPREAD = "all prompts changed by the same amount: their spread is unknown"
_TOO_FEW = "so few prompts show no change at all at this confidence, however large"
_ONE_COMPLETION = (
    "how much of the spread is the prompts' and how much their completions' shows only in a mean over several "
    "completions of each prompt"
)


@dataclass(frozen=True)
class Power:
    """What a run of this size can see, and of what size one must be to see what this one found.

    The spread is this run's own. A change is as uncertain as its interval is wide, and where it was significant it was
    rather found too large: `num_needed` is an order of magnitude, and for a new run rather too low.

    Attributes:
        wanted: Chance of a significant result that counts as enough.
        smallest_change: The smallest true change that this many prompts show with that chance; None where unknown.
        num_needed: Prompts needed to see the change found, with as many completions each; None where unknown.
        num_needed_with_25: The same with 25 completions of each prompt.
        sd_between: Standard deviation of the prompts' true changes.
        sd_within: Standard deviation of the changes of one prompt's completions.
        missing: Why figures are None; empty where none is.
    """

    wanted: float
    smallest_change: float | None
    num_needed: int | None
    num_needed_with_25: int | None
    sd_between: float | None
    sd_within: float | None
    missing: str


def standardised_effect(change: Tensor) -> float | None:
    """Mean change in standard deviations of the changes (Cohen's d_z), with Hedges' correction for few prompts.

    Returns:
        The effect; None with fewer than three prompts, or where nothing varies. By convention 0.2 is small, 0.5 medium,
        0.8 large.

    Shape:
        (N,).

    Source:
        Cohen, Statistical Power Analysis, 1988, section 2.3.5 (d_z); Hedges, Distribution theory for Glass's estimator
        of effect size, 1981 (correction).
    """
    spread, degrees = _sd(change), len(change) - 1
    if spread is None or degrees < 2:
        return None
    correction = math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees - 1) / 2)) / math.sqrt(degrees / 2)
    return correction * float(change.mean()) / spread


def rank_biserial(change: Tensor) -> float | None:
    """Matched-pairs rank-biserial correlation: share of the ranks that rose less share of those that fell.

    Returns:
        -1 where every prompt that changed fell, 1 where every one rose; None where none changed.

    Shape:
        (N,).

    Source:
        Kerby, The simple difference formula, 2014; ranks as in `wilcoxon_p_value`.
    """
    ranks = signed_ranks(change)
    total = float(ranks.abs().sum())
    return float(ranks.sum()) / total if total else None


def variance_components(changes: Tensor) -> tuple[float, float]:
    """Variance between prompts and within prompts, from a balanced one-way analysis of variance.

    Args:
        changes: Of each completion.

    Returns:
        The variance of the prompts' true changes, 0 where completions alone explain the spread; the variance of
        completions of one prompt.

    Shape:
        (N, J), both at least 2.

    Source:
        Searle, Casella and McCulloch, Variance Components, 1992, section 3.5.
    """
    within = float(changes.var(dim=1).mean())
    between = float(changes.mean(dim=1).var()) - within / changes.shape[1]
    return max(between, 0.0), within


def power(changes: Tensor, alpha: float = 0.05, wanted: float = 0.8) -> Power:
    """What this run could see, and what it would take to see what it found.

    The power of a t-test on the prompts' changes: that of a sign-flip test of their mean tends to it as prompts become
    many. Where signs alone cannot be significant, however large the changes, there is none.

    Args:
        changes: Of each completion, or of each prompt where a figure has one value a prompt, as a maximum has.
        alpha: A p-value must be below it.
        wanted: Chance of that, in (0, 1).

    Shape:
        (N,) or (N, J).

    Source:
        statsmodels' `TTestPower`: the noncentral t distribution. Lehmann and Romano, Testing Statistical Hypotheses,
        section 15.2 (the sign-flip test's power tends to the t-test's).
    """
    means = changes.mean(dim=1) if changes.ndim == 2 else changes
    spread, change = _sd(means), float(means.mean())
    if spread is None:
        reason = _TOO_FEW if len(means) < 2 else _NO_SPREAD if change else _NO_CHANGE
        return Power(wanted, None, None, None, None, None, reason)
    is_nested = changes.ndim == 2 and changes.shape[1] > 1
    between, within = variance_components(changes) if is_nested else (None, None)
    many = None if between is None or within is None else math.sqrt(between + within / MANY_COMPLETIONS)
    found = abs(change) > 1e-6 * spread  # less is rounding, or takes 10^13 prompts
    smallest = _smallest_change(spread, len(means), alpha, wanted)
    reasons = {
        _TOO_FEW: smallest is None,
        _NO_CHANGE: not found,
        _ONE_COMPLETION: not is_nested,
    }
    return Power(
        wanted=wanted,
        smallest_change=smallest,
        num_needed=_num_needed(spread, change, alpha, wanted) if found else None,
        num_needed_with_25=_num_needed(many, change, alpha, wanted) if found and many is not None else None,
        sd_between=None if between is None else math.sqrt(between),
        sd_within=None if within is None else math.sqrt(within),
        missing="; ".join(reason for reason, holds in reasons.items() if holds),
    )


def _num_needed(spread: float, change: float, alpha: float, wanted: float) -> int:
    effect, fewest = abs(change) / spread, _fewest(alpha)
    if effect >= _solved(alpha, wanted, nobs=fewest):
        return fewest
    return math.ceil(_solved(alpha, wanted, effect_size=effect))


def _smallest_change(spread: float, num_prompts: int, alpha: float, wanted: float) -> float | None:
    return spread * _solved(alpha, wanted, nobs=num_prompts) if num_prompts >= _fewest(alpha) else None


def _solved(alpha: float, wanted: float, **known: float) -> float:
    """The effect size seen by `nobs` prompts, or the prompts that see an `effect_size`."""
    # The chance of a significant change in the wrong direction is no power; and statsmodels finds no root with it.
    return float(TTestPower().solve_power(**known, alpha=alpha / 2, power=wanted, alternative="larger"))


def _fewest(alpha: float) -> int:
    """Prompts whose signs alone can be significant: the least p of a sign-flip test is 2 / 2^N."""
    return math.floor(1 - math.log2(alpha)) + 1


def _sd(change: Tensor) -> float | None:
    """Standard deviation; None where there is none but of rounding."""
    if len(change) < 2:
        return None
    spread = float(change.std())
    return spread if spread > 1e-12 * float(torch.max(change.abs())) else None
