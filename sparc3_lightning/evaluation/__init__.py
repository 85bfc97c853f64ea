"""Generation with paired noise, the evaluator, measures' columns."""

from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.generation import Completion, generate
from sparc3_lightning.evaluation.measure import Column
from sparc3_lightning.evaluation.planning import Decoding
from sparc3_lightning.evaluation.records import Evaluation, PerplexityResult, ToxicityResult

__all__ = [
    "Column",
    "Completion",
    "Decoding",
    "Evaluation",
    "Evaluator",
    "PerplexityResult",
    "ToxicityResult",
    "generate",
]
