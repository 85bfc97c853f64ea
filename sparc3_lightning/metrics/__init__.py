"""What is measured: perplexity, scores of texts, repetition."""

from sparc3_lightning.metrics.detoxify_scorer import DetoxifyScorer
from sparc3_lightning.metrics.perplexity import Window, WindowPerplexity, join_rows, window_losses, windows
from sparc3_lightning.metrics.repetition import uniqueness
from sparc3_lightning.metrics.scorers import JointScorer, LexicalScorer, Scorer
from sparc3_lightning.metrics.toxicity import AttributeSummary, Toxicity, summarise

__all__ = [
    "AttributeSummary",
    "DetoxifyScorer",
    "JointScorer",
    "LexicalScorer",
    "Scorer",
    "Toxicity",
    "Window",
    "WindowPerplexity",
    "join_rows",
    "summarise",
    "uniqueness",
    "window_losses",
    "windows",
]
