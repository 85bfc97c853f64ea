"""Generation with paired noise, the evaluator, measures' columns."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparc3_lightning.evaluation.evaluator import Evaluator
    from sparc3_lightning.evaluation.generation import Decoding, generate
    from sparc3_lightning.evaluation.measure import Column, Measure
    from sparc3_lightning.evaluation.records import Evaluation, PerplexityResult, ToxicityResult

_HOME = {
    "Column": "measure",
    "Decoding": "generation",
    "Evaluation": "records",
    "Evaluator": "evaluator",
    "Measure": "measure",
    "PerplexityResult": "records",
    "ToxicityResult": "records",
    "generate": "generation",
}
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


def __getattr__(name: str) -> Any:
    """Read when asked for: metrics need columns, and the evaluator metrics."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
