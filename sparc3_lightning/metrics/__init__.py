"""What is measured: perplexity, scores of texts, repetition, length."""

from sparc3_lightning.metrics.completions import (
    AttributeSummary,
    CompletionMeasure,
    Length,
    Repetition,
    Toxicity,
    summarise,
)
from sparc3_lightning.metrics.detoxify_scorer import DetoxifyScorer
from sparc3_lightning.metrics.measure import Completion
from sparc3_lightning.metrics.perplexity import Window, WindowPerplexity, join_rows, window_losses, windows
from sparc3_lightning.metrics.scorers import JointScorer, LexicalScorer, RepetitionScorer, Scorer

__all__ = [
    "AttributeSummary",
    "Completion",
    "CompletionMeasure",
    "DetoxifyScorer",
    "JointScorer",
    "Length",
    "LexicalScorer",
    "Repetition",
    "RepetitionScorer",
    "Scorer",
    "Toxicity",
    "Window",
    "WindowPerplexity",
    "join_rows",
    "summarise",
    "window_losses",
    "windows",
]
