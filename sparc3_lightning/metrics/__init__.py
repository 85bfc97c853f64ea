"""What is measured: perplexity, toxicity, repetition, and the statistics of before and after."""

from sparc3_lightning.metrics.bootstrap import (
    Bootstrap,
    Interval,
    paired_bootstrap,
    perplexity_bootstrap,
    two_stage_bootstrap,
)
from sparc3_lightning.metrics.detoxify_scorer import DetoxifyScorer
from sparc3_lightning.metrics.effects import Power, power, rank_biserial, standardised_effect, variance_components
from sparc3_lightning.metrics.exchange import Tested, exchange_tests
from sparc3_lightning.metrics.perplexity import Window, WindowPerplexity, join_rows, window_losses, windows
from sparc3_lightning.metrics.repetition import uniqueness
from sparc3_lightning.metrics.scorers import JointScorer, LexicalScorer, Scorer
from sparc3_lightning.metrics.statistics import share_improved, sign_flip_p_value, wilcoxon_p_value
from sparc3_lightning.metrics.toxicity import AttributeSummary, Toxicity, summarise

__all__ = [
    "AttributeSummary",
    "Bootstrap",
    "DetoxifyScorer",
    "Interval",
    "JointScorer",
    "LexicalScorer",
    "Power",
    "Scorer",
    "Tested",
    "Toxicity",
    "Window",
    "WindowPerplexity",
    "exchange_tests",
    "join_rows",
    "paired_bootstrap",
    "perplexity_bootstrap",
    "power",
    "rank_biserial",
    "share_improved",
    "sign_flip_p_value",
    "standardised_effect",
    "summarise",
    "two_stage_bootstrap",
    "uniqueness",
    "variance_components",
    "wilcoxon_p_value",
    "window_losses",
    "windows",
]
