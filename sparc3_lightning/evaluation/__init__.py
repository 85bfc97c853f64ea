"""Generation with paired noise, the evaluator, comparisons and result files."""

from sparc3_lightning.evaluation.comparison import Change, Comparison, PairedChange, compare, compare_with_control
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.generation import Completion, generate
from sparc3_lightning.evaluation.planning import Decoding
from sparc3_lightning.evaluation.records import Evaluation, PerplexityResult, ToxicityResult
from sparc3_lightning.evaluation.results import read_json, write_json

__all__ = [
    "Change",
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
    "read_json",
    "write_json",
]
