"""From a cell to its neurons."""

import warnings
from collections.abc import Mapping, Sequence

from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.select import select_neurons
from sparc3_lightning.scoring.baselines import MethodScores
from sparc3_lightning.scoring.baselines.formulas import random_scores
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.trials.sweep import Cell


def select_cell(
    cell: Cell, found: Mapping[str, MethodScores], general: Sequence[str], behaviour: str, seed: int = 0
) -> Recipe:
    """The neurons of a cell.

    Args:
        cell: Which.
        found: Scores by key of the method.
        general: Names of the general sets.
        behaviour: Name of the behaviour's set.
        seed: Seed of the first random draw; draw i uses seed + i.

    Raises:
        KeyError: The method has no scores.
        ValueError: More neurons than there are.
    """
    scores = _contrast(cell, found[cell.key], general, behaviour, seed)
    with warnings.catch_warnings():
        # A sweep goes on purpose to where no neuron is specific any more; the table has the number.
        warnings.filterwarnings("ignore", message="only .* selected neurons are more relevant")
        return select_neurons(scores, cell.num_neurons, cell.scope)


def _contrast(cell: Cell, scores: MethodScores, general: Sequence[str], behaviour: str, seed: int) -> ScoreSet:
    if cell.method == "random":
        assert scores.ranking is not None
        drawn = ScoreSet(random_scores(scores.ranking.shapes, seed + cell.draw), scores.ranking.manifest.copy())
        drawn.manifest["options"] = scores.ranking.manifest["options"].copy()
        drawn.manifest["options"]["seed"] = seed + cell.draw
        return drawn
    return scores.contrast(general, behaviour, cell.general_weight, cell.general_penalty, cell.divide_by_total)
