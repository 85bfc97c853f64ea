"""Statistics of one figure, as the package makes many at once; completions of a prompt are averaged first."""

from torch import Tensor

from sparc3_lightning.statistics.intervals import (
    Bootstrap,
    Scores,
    bootstrap_means,
    paired_change,
    two_stage_means,
)
from sparc3_lightning.statistics.p_values import sign_flip_p_values
from sparc3_lightning.statistics.p_values import wilcoxon_p_value as wilcoxon_of_change


def row_change(before: Scores, after: Scores) -> Tensor:
    change = paired_change(before, after)
    return change.mean(dim=1) if change.ndim == 2 else change


def paired_bootstrap(before: Scores, after: Scores, num_draws: int = 10_000, seed: int = 0) -> Bootstrap:
    return bootstrap_means(row_change(before, after).unsqueeze(1), num_draws, seed)[0]


def two_stage_bootstrap(before: Scores, after: Scores, num_draws: int = 10_000, seed: int = 0) -> Bootstrap:
    return two_stage_means(paired_change(before, after).unsqueeze(2), num_draws, seed)[0]


def sign_flip_p_value(before: Scores, after: Scores, num_draws: int = 10_000, seed: int = 0) -> float:
    return sign_flip_p_values(row_change(before, after).unsqueeze(1), num_draws, seed)[0]


def wilcoxon_p_value(before: Scores, after: Scores) -> float:
    return wilcoxon_of_change(row_change(before, after))
