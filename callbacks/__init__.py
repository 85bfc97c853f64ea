"""Lightning callbacks: thin glue, one a file; the logic is in sparc3_lightning."""

from callbacks.baselines import BaselineCallback
from callbacks.circuit import CircuitCallback
from callbacks.compression import CompressionCallback
from callbacks.evaluation import EvaluationCallback
from callbacks.pruning import PruningCallback
from callbacks.relevance import RelevanceCallback
from callbacks.resume import ResumeCallback
from callbacks.score_writer import ScoreWriter
from callbacks.sweep import SweepCallback
from callbacks.tensorboard import TensorBoardCallback

__all__ = [
    "BaselineCallback",
    "CircuitCallback",
    "CompressionCallback",
    "EvaluationCallback",
    "PruningCallback",
    "RelevanceCallback",
    "ResumeCallback",
    "ScoreWriter",
    "SweepCallback",
    "TensorBoardCallback",
]
