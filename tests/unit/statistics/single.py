"""Bootstraps of one figure, as the package draws many at once."""

from sparc3_lightning.statistics.intervals import Bootstrap, bootstrap_means, two_stage_means
from sparc3_lightning.statistics.signs import Scores, completion_changes, paired_change


def paired_bootstrap(before: Scores, after: Scores, num_draws: int = 10_000, seed: int = 0) -> Bootstrap:
    return bootstrap_means(paired_change(before, after).unsqueeze(1), num_draws, seed)[0]


def two_stage_bootstrap(before: Scores, after: Scores, num_draws: int = 10_000, seed: int = 0) -> Bootstrap:
    return two_stage_means(completion_changes(before, after).unsqueeze(2), num_draws, seed)[0]
