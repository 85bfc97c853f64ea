"""What is measured: perplexity, toxicity, repetition, and the statistics of before and after."""

from sparc3_lightning.metrics.detoxify_scorer import DetoxifyScorer
from sparc3_lightning.metrics.perplexity import Window, WindowPerplexity, join_rows, window_losses, windows
from sparc3_lightning.metrics.repetition import uniqueness
from sparc3_lightning.metrics.scorers import JointScorer, LexicalScorer, Scorer
from sparc3_lightning.metrics.statistics import (
    Interval,
    paired_bootstrap,
    perplexity_bootstrap,
    share_improved,
    sign_flip_p_value,
)
from sparc3_lightning.metrics.toxicity import AttributeSummary, Toxicity, summarise

__all__ = [
    "AttributeSummary",
    "DetoxifyScorer",
    "Interval",
    "JointScorer",
    "LexicalScorer",
    "Scorer",
    "Toxicity",
    "Window",
    "WindowPerplexity",
    "join_rows",
    "paired_bootstrap",
    "perplexity_bootstrap",
    "share_improved",
    "sign_flip_p_value",
    "summarise",
    "uniqueness",
    "window_losses",
    "windows",
]
