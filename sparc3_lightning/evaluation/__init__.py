"""Generation with paired noise, the evaluator, comparisons and results."""

from sparc3_lightning.evaluation.comparison import Comparison, PairedChange, compare, compare_with_control
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.generation import Completion, generate
from sparc3_lightning.evaluation.planning import Decoding
from sparc3_lightning.evaluation.records import Evaluation, PerplexityResult, ToxicityResult

__all__ = [
    "Comparison",
    "Completion",
    "Decoding",
    "Evaluation",
    "Evaluator",
    "PairedChange",
    "PerplexityResult",
    "ToxicityResult",
    "compare",
    "compare_with_control",
    "generate",
]
