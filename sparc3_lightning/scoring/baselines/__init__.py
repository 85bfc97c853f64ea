"""Scorers beside LRP: each gives ScoreSets that combine, select and prune as LRP's do.

A neuron is row i of its family's `up`, with its gate and down partners, whatever scores it; the lowest differential
goes first.
"""

from sparc3_lightning.scoring.baselines.found import MethodScores
from sparc3_lightning.scoring.baselines.methods import METHODS, Method, method_key
from sparc3_lightning.scoring.baselines.plain import score_baselines
from sparc3_lightning.scoring.baselines.score import BaselineScorer
from sparc3_lightning.scoring.baselines.sequential import sequential_wanda

__all__ = ["METHODS", "BaselineScorer", "Method", "MethodScores", "method_key", "score_baselines", "sequential_wanda"]
