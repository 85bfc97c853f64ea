"""Run the cells: what is done already is read, what fails is noted, the rest is evaluated and kept."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparc3_lightning.distributed.ranks import from_rank_zero, is_raised_by_all
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.scoring.baselines import MethodScores
from sparc3_lightning.trials.selection import select_cell
from sparc3_lightning.trials.store import CellStore, fingerprint
from sparc3_lightning.trials.sweep import Cell

Evaluate = Callable[[Recipe, float], Evaluation]
"""`evaluate(recipe, factor)` evaluates the model with the recipe's neurons scaled by the factor."""
Judge = Callable[[Evaluation], dict[str, Any]]
"""`judge(evaluation)` gives the figures that the table shows: `summary` and `changes`."""
ProgressBar = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass
class PlannedCell:
    """A cell with its neurons, and in the end its figures.

    Attributes:
        cell: Which.
        recipe: Its neurons; None where they could not be selected.
        fingerprint: What its evaluation is kept under.
        figures: `summary` and `changes`; None where it failed.
        error: Why it failed.
        is_reused: The evaluation is an earlier run's, or another cell's with the same neurons.
    """

    cell: Cell
    recipe: Recipe | None = None
    fingerprint: str | None = None
    figures: dict[str, Any] | None = None
    error: str | None = None
    is_reused: bool = False


def plan_cells(
    cells: Sequence[Cell],
    found: Mapping[str, MethodScores],
    general: Sequence[str],
    behaviour: str,
    setting: dict[str, Any],
    seed: int = 0,
) -> list[PlannedCell]:
    """Select every cell's neurons; a selection that fails is noted in its cell.

    Args:
        cells: Which.
        found: Scores by key of the method.
        general: Names of the general sets.
        behaviour: Name of the behaviour's set.
        setting: What the evaluation depends on; see `evaluation_setting`.
        seed: Of the first random draw.
    """
    planned = []
    for cell in cells:
        try:
            recipe = select_cell(cell, found, general, behaviour, seed)
        except ValueError as error:
            planned.append(PlannedCell(cell, error=_said(error)))
        else:
            planned.append(PlannedCell(cell, recipe, fingerprint(setting, recipe.neurons, cell.factor)))
    return planned


def run_cells(
    planned: Sequence[PlannedCell],
    evaluate: Evaluate,
    judge: Judge,
    store: CellStore,
    progress: ProgressBar,
) -> None:
    """Fill in every cell's figures or its error. Every rank must call, with the same cells.

    Args:
        planned: The cells.
        evaluate: Evaluates one; an error that all ranks raise together ends that cell, any other the sweep.
        judge: Makes figures of an evaluation; asked on rank 0.
        store: Where evaluations are kept; read and written on rank 0.
        progress: Bar over the cells.
    """
    known: dict[str, PlannedCell] = {}
    for cell in progress(planned, len(planned), "sweep"):
        if cell.recipe is None or cell.fingerprint is None:
            continue
        if cell.fingerprint in known:
            twin = known[cell.fingerprint]
            cell.figures, cell.error, cell.is_reused = twin.figures, twin.error, True
        else:
            _run_cell(cell, evaluate, judge, store)
            known[cell.fingerprint] = cell


def _run_cell(planned: PlannedCell, evaluate: Evaluate, judge: Judge, store: CellStore) -> None:
    recipe, name, factor = planned.recipe, planned.fingerprint, planned.cell.factor
    assert recipe is not None
    assert name is not None
    try:
        known = from_rank_zero(lambda: store.load(name))
        planned.is_reused = known is not None
        evaluation = evaluate(recipe, factor) if known is None else known
        planned.figures = from_rank_zero(lambda: judge(evaluation))
    except Exception as error:  # whatever it is, it must not take the other cells' hours with it
        if not is_raised_by_all(error):
            raise  # the others wait for this rank, and end with it
        planned.error = _said(error)
        return
    if not planned.is_reused:
        from_rank_zero(lambda: store.save(name, planned.cell.to_json(), recipe.neurons, evaluation))


def check_one_is_done(planned: Sequence[PlannedCell]) -> None:
    """Refuse to end well where nothing was found out.

    Raises:
        ValueError: Every cell failed; says how the first did.
    """
    if all(cell.figures is None for cell in planned):
        raise ValueError(
            f"all {len(planned)} cells of the sweep failed, the first ({planned[0].cell}) with {planned[0].error}"
        )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
