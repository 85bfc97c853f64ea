"""The sweep as one table: a row a cell, the baseline first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.files import write_text
from sparc3_lightning.metrics.measure import Column
from sparc3_lightning.pruning.recipe import Recipe, neurons_per_layer
from sparc3_lightning.statistics.compare import Change, compare, share_of
from sparc3_lightning.statistics.p_values import PairedTest, holm, least_holm, pairwise_overlaps
from sparc3_lightning.trials.choice import confirmation_means, deciding, half_changes
from sparc3_lightning.trials.sweep import Candidates, CellFigures, PlannedCell
from sparc3_lightning.trials.table import AT_PRICE_FILE, behaviour_of, write_table

Row = dict[str, Any]


def figures_of(baseline: Evaluation, cell: Evaluation, test: PairedTest) -> CellFigures:
    """A cell's figures, their changes against the baseline, and the changes on two halves of the prompts.

    Args:
        baseline: The model as it was.
        cell: The same model without the cell's neurons.
        test: Settings of the statistics.
    """
    shown, row = _shown(cell), baseline_row(cell)
    for name, change in compare(baseline.columns, cell.columns, test).items():
        if name in shown:
            is_price, better = shown[name].role == "price", shown[name].better
            row |= _relative(_key(name), change, better) if is_price else _change(_key(name), change)
    for half, changes in half_changes(baseline, cell, test).items():
        for place, (name, change) in enumerate(changes.items()):
            stem = f"{half}_{_attribute(name)}" if place else half
            row |= {**_change(stem, change), f"{stem}_before": change.before}
    return CellFigures(row, confirmation_means(cell))


def baseline_row(evaluation: Evaluation) -> Row:
    """A model's figures: a column's name is its measure's, with its last slash as `_`.

    `behaviour` names the column that cells are chosen by, `attribute` what was scored for it.
    """
    decides = next(iter(deciding(evaluation)), None)
    named = {} if decides is None else {"attribute": _attribute(decides), "behaviour": _key(decides)}
    return {**{_key(name): column.figure for name, column in _shown(evaluation).items()}, **named}


def _shown(evaluation: Evaluation) -> dict[str, Column]:
    """All columns but details, other than the behaviour's own."""
    chosen_by = deciding(evaluation)
    of_behaviour = tuple(f"{_attribute(name)}/" for name in chosen_by[:1])
    return {
        name: column
        for name, column in evaluation.columns.items()
        if column.role not in ("logged", "detail") or name in chosen_by or name.startswith(of_behaviour)
    }


def _attribute(name: str) -> str:
    return name.rpartition("/")[0] or name


def _key(name: str) -> str:
    return "_".join(name.rsplit("/", 1))


def _relative(name: str, change: Change, better: str) -> Row:
    """`_paid` is the relative change for the worse."""
    low, high = (share_of(change.before, end) for end in (change.interval.low, change.interval.high))
    paid = -change.relative if better == "higher" and change.relative else change.relative
    return {f"{name}_relative": change.relative, f"{name}_paid": paid, f"{name}_p": change.p_value,
            f"{name}_relative_low": low, f"{name}_relative_high": high}  # fmt: skip


def _change(name: str, change: Change) -> Row:
    return {f"{name}_change": change.change, f"{name}_relative": change.relative, f"{name}_low": change.interval.low,
            f"{name}_high": change.interval.high, f"{name}_p": change.p_value,
            f"{name}_p_least": change.p_value_least}  # fmt: skip


def sweep_rows(planned: Sequence[PlannedCell], baseline: Mapping[str, Any]) -> list[Row]:
    """One row a cell, failed ones too, and the baseline's before them.

    `p_holm` corrects the behaviour's p-value over all selections of the sweep that differ in their neurons, the random
    ones left out; `p_holm_least` is what it cannot be below, however large an effect.

    Args:
        planned: The cells, run.
        baseline: The baseline's figures; see `baseline_row`.
    """
    named = {"label": "baseline", "key": "baseline", "method": "baseline", "num_neurons": 0, "status": "done"}
    rows: list[Row] = [{**named, **baseline}]
    for cell in planned:
        row: Row = {"label": str(cell.cell), "key": cell.cell.key, **asdict(cell.cell),
                    "is_plain": cell.cell.is_plain, "status": "failed" if cell.figures is None else "done",
                    "error": cell.error}  # fmt: skip
        if cell.recipe is not None:
            row["num_layers"] = len(cell.recipe.per_layer())
            row["num_below_zero"] = sum(score < 0 for score in cell.recipe.scores)
        figures = {} if cell.figures is None else cell.figures.row
        rows.append({**row, **figures, "fingerprint": cell.name, "is_reused": cell.is_reused})
    _correct(planned, rows)
    return rows


def num_corrected(planned: Sequence[PlannedCell]) -> int:
    """How many p-values `p_holm` corrects: selections that differ, the random ones left out; at least 1."""
    tried = {cell.name for cell in planned if cell.recipe is not None and not cell.cell.is_control}
    return max(1, len(tried))


def _correct(planned: Sequence[PlannedCell], rows: Sequence[Row]) -> None:
    p_value = f"{behaviour_of(rows)}_p"
    of_cells = zip(planned, rows[1:], strict=True)
    tested = [row for cell, row in of_cells if p_value in row and not cell.cell.is_control]
    p_values = {row["fingerprint"]: row[p_value] for row in tested}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    for row in tested:
        row["p_holm"] = adjusted[row["fingerprint"]]
        row["p_holm_least"] = least_holm([row[f"{p_value}_least"]] * len(adjusted))


def overlap_rows(planned: Sequence[PlannedCell], candidates: Candidates, num_neurons: int) -> list[Row]:
    """How far every two methods agree at one number of neurons and scope, and every two general sets of one method.

    Args:
        planned: The cells; the plain ones that are not random are compared.
        candidates: What they selected from; each general set alone makes a selection too.
        num_neurons: Neurons of the model.
    """
    groups: dict[tuple[str, str, int], dict[str, Recipe]] = {}
    for cell in (planned_cell.cell for planned_cell in planned if planned_cell.recipe is not None):
        if cell.is_control or not cell.is_plain:
            continue
        recipe = candidates.select(cell)
        groups.setdefault(("methods", cell.scope, cell.num_neurons), {})[cell.key] = recipe
        if candidates.found[cell.key].sets and len(candidates.general) > 1:
            of_seeds = groups.setdefault((f"seeds of {cell.key}", cell.scope, cell.num_neurons), {})
            of_seeds |= {name: replace(candidates, general=[name]).select(cell) for name in candidates.general}
    rows = []
    for (what, scope, k), recipes in groups.items():
        found = pairwise_overlaps({key: recipe.per_layer() for key, recipe in recipes.items()}, num_neurons)
        for (first, second), shared in found.items():
            rows.append({"what": what, "scope": scope, "num_neurons": k, "first": first, "second": second,
                         **vars(shared)})  # fmt: skip
    return rows


def layer_shares(planned: Sequence[PlannedCell], num_layers: int) -> dict[int, dict[str, list[float]]]:
    """Share of each plain global selection in each layer, by number of neurons and method."""
    shares: dict[int, dict[str, list[float]]] = {}
    for cell, recipe in ((planned_cell.cell, planned_cell.recipe) for planned_cell in planned):
        if recipe is not None and cell.is_plain and cell.scope == "global" and not cell.is_control:
            counts = neurons_per_layer(recipe, num_layers)
            shares.setdefault(cell.num_neurons, {})[cell.key] = [count / len(recipe.neurons) for count in counts]
    return shares


def write_tables(
    rows: Sequence[Mapping[str, Any]],
    overlaps: Sequence[Mapping[str, Any]],
    at_prices: Sequence[Mapping[str, Any]],
    directory: Path,
) -> None:
    """Write `table.csv`, `table.parquet`, `overlap.csv` and `at_price.csv`, each whole or not at all."""
    write_table(rows, directory)
    for name, content in (("overlap.csv", overlaps), (AT_PRICE_FILE, at_prices)):
        write_text(directory / name, pd.DataFrame(content).to_csv(index=False))
