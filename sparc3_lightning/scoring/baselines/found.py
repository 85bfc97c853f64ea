"""What one method has found: a ScoreSet for each reference set, or one ranking."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sparc3_lightning.scoring.combine import Penalty, as_shares, differential
from sparc3_lightning.scoring.score_set import ScoreSet


@dataclass
class MethodScores:
    """What one method has found; see `BaselineScorer` for which rank has it.

    Attributes:
        sets: Scores by reference set; empty where the method ranks without.
        ranking: The method's one ranking, lowest first; None where it scores sets.
    """

    sets: dict[str, ScoreSet] = field(default_factory=dict)
    ranking: ScoreSet | None = None

    def contrast(
        self,
        general: Sequence[str],
        behaviour: str,
        general_weight: float = 1.0,
        general_penalty: Penalty = "raw",
        divide_by_total: bool = False,
    ) -> ScoreSet:
        """What to select from, lowest first: the ranking, or the differential as LRP's.

        Args:
            general: Names of the general sets.
            behaviour: Name of the behaviour's set.
            general_weight: See `differential`; a ranking has none.
            general_penalty: See `differential`.
            divide_by_total: Take each set's scores as shares of their total; a ranking has none.
        """
        if self.ranking is not None:
            return self.ranking
        *general_sets, behaviour_set = [
            as_shares(self.sets[name]) if divide_by_total else self.sets[name] for name in (*general, behaviour)
        ]
        return differential(general_sets, behaviour_set, general_weight, general_penalty)
