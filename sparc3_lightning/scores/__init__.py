"""Scores: mean relevance over reference sets, on disk and combined."""

from sparc3_lightning.scores.combine import differential
from sparc3_lightning.scores.score_set import ScoreSet

__all__ = ["ScoreSet", "differential"]
