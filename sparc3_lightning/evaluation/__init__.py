"""Generation with paired noise, the evaluator and what it leaves."""

from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.generation import Decoding, generate
from sparc3_lightning.evaluation.records import Evaluation, ToxicityResult
from sparc3_lightning.metrics.measure import Column, Measure
from sparc3_lightning.metrics.perplexity import PerplexityResult

__all__ = [
    "Column",
    "Decoding",
    "Evaluation",
    "Evaluator",
    "Measure",
    "PerplexityResult",
    "ToxicityResult",
    "generate",
]
