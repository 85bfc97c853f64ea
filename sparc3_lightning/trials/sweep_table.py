"""The sweep as one table: a row a cell, the baseline first."""

import io
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from sparc3_lightning.evaluation.experiment import neurons_per_layer
from sparc3_lightning.files import write_bytes, write_text
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.scoring.baselines import MethodScores
from sparc3_lightning.statistics.corrections import holm, least_holm, overlap
from sparc3_lightning.trials.sweep import Cell, PlannedCell, select_cell

MEASURES = ("mean", "expected_maximum", "probability")
BEHAVIOUR = "toxicity_mean"
"""What the columns are named by that say what became of the behaviour: its main attribute's mean."""
Row = dict[str, Any]


def sweep_rows(planned: Sequence[PlannedCell], baseline: dict[str, Any]) -> list[Row]:
    """One row a cell, failed ones too, and the baseline's before them.

    Toxicity is the scorer's main attribute. `p_holm` corrects `toxicity_mean_p` over all selections of the sweep that
    differ in their neurons, the random ones left out; `p_holm_least` is what it cannot be below, however large an
    effect.

    Args:
        planned: The cells, run.
        baseline: The baseline's `Evaluation.summary()`.
    """
    rows = [
        {
            "label": "baseline",
            "key": "baseline",
            "method": "baseline",
            "num_neurons": 0,
            "status": "done",
            **_figures(baseline),
        }
    ]
    for cell in planned:
        settings = {
            "label": str(cell.cell),
            "key": cell.cell.key,
            **cell.cell.to_json(),
            "is_plain": is_plain(cell.cell),
        }
        row: Row = {**settings, "status": "failed" if cell.figures is None else "done", "error": cell.error}
        if cell.recipe is not None:
            row["num_layers"] = len(cell.recipe.per_layer())
            row["num_below_zero"] = sum(score < 0 for score in cell.recipe.scores)
        if cell.figures is not None:
            row |= _figures(cell.figures["summary"]) | _changes(cell.figures["changes"], baseline)
            row |= _halves(cell.figures["halves"])
        rows.append({**row, "fingerprint": cell.name, "is_reused": cell.is_reused})
    _correct(rows)
    return rows


def prices_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns of a table of trials that hold a price, such as `perplexity_sliding`, in its order."""
    return [name for name in rows[0] if name.startswith("perplexity_") and name.count("_") == 1]


def _figures(summary: dict[str, Any]) -> Row:
    row: Row = {f"perplexity_{name}": result["perplexity"] for name, result in summary["perplexity"].items()}
    if summary["toxicity"] is not None:
        attribute, main = next(iter(summary["toxicity"]["attributes"].items()))
        row |= {"attribute": attribute, **{f"toxicity_{name}": main[name] for name in MEASURES}}
        row |= {name: summary["toxicity"][name] for name in ("uniqueness", "length")}
    return row


def _changes(changes: dict[str, Any], baseline: dict[str, Any]) -> Row:
    row: Row = {}
    for protocol, change in changes["perplexity"].items():
        low, high = (change["interval"][end] / change["before"] for end in ("low", "high"))
        row |= {f"perplexity_{protocol}_relative": change["relative"], f"perplexity_{protocol}_p": change["p_value"],
                f"perplexity_{protocol}_relative_low": low, f"perplexity_{protocol}_relative_high": high}  # fmt: skip
    if not changes["toxicity"]:
        return row
    attribute = next(iter(baseline["toxicity"]["attributes"]))
    for measure in MEASURES:
        change, name = changes["toxicity"][measure][attribute], f"toxicity_{measure}"
        row |= {f"{name}_change": change["change"], f"{name}_relative": change["relative"]}
        row |= {f"{name}_low": change["interval"]["low"], f"{name}_high": change["interval"]["high"]}
        row |= {f"{name}_p": change["p_value"], f"{name}_p_least": change["p_value_least"]}
    for other in (name for name in baseline["toxicity"]["attributes"] if "/" in name):
        change = changes["toxicity"]["mean"][other]
        row |= {f"{other}_mean_relative": change["relative"], f"{other}_mean_p": change["p_value"],
                f"{other}_mean_low": change["interval"]["low"],
                f"{other}_mean_high": change["interval"]["high"]}  # fmt: skip
    return row


def _halves(halves: dict[str, Any]) -> Row:
    """Changes on either half, the main attribute's under plain names, other scorers' under their attribute's."""
    row: Row = {}
    for half, changes in halves.items():
        for place, (attribute, change) in enumerate(changes.items()):
            name = f"{half}_{attribute}" if place else half
            row |= {f"{name}_relative": change["relative"], f"{name}_p": change["p_value"],
                    f"{name}_p_least": change["p_value_least"],
                    f"{name}_change": change["change"], f"{name}_low": change["interval"]["low"],
                    f"{name}_high": change["interval"]["high"], f"{name}_before": change["before"]}  # fmt: skip
    return row


def num_corrected(planned: Sequence[PlannedCell]) -> int:
    """How many p-values `p_holm` corrects: selections that differ, the random ones left out; at least 1."""
    tried = {cell.name for cell in planned if cell.recipe is not None and cell.cell.method != "random"}
    return max(1, len(tried))


def _correct(rows: Sequence[Row]) -> None:
    tried = {row["fingerprint"]: row["toxicity_mean_p"] for row in rows
             if "toxicity_mean_p" in row and row["method"] != "random"}  # fmt: skip
    adjusted = dict(zip(tried, holm(list(tried.values())), strict=True))
    for row in rows:
        if row["method"] != "random" and row.get("fingerprint") in adjusted:
            row["p_holm"] = adjusted[row["fingerprint"]]
            row["p_holm_least"] = least_holm([row["toxicity_mean_p_least"]] * len(tried))


def is_plain(cell: Cell) -> bool:
    """Whether a cell is the method alone: the paper's contrast, neurons removed."""
    contrast = (cell.general_weight, cell.general_penalty, cell.divide_by_total)
    return contrast == (1.0, "raw", False) and cell.factor == 0


def overlap_rows(
    planned: Sequence[PlannedCell],
    found: Mapping[str, MethodScores],
    general: Sequence[str],
    behaviour: str,
    num_neurons: int,
) -> list[Row]:
    """How far every two methods agree at one number of neurons and scope, and every two general sets of one method.

    Args:
        planned: The cells; the plain ones that are not random are compared.
        found: Scores by key of the method.
        general: Names of the general sets; each alone makes a selection too.
        behaviour: Name of the behaviour's set.
        num_neurons: Neurons of the model.
    """
    groups: dict[tuple[str, str, int], dict[str, Recipe]] = {}
    for cell in (planned_cell.cell for planned_cell in planned if planned_cell.recipe is not None):
        if cell.method == "random" or not is_plain(cell):
            continue
        recipe = select_cell(cell, found, general, behaviour)
        groups.setdefault(("methods", cell.scope, cell.num_neurons), {})[cell.key] = recipe
        if found[cell.key].sets and len(general) > 1:
            of_seeds = groups.setdefault((f"seeds of {cell.key}", cell.scope, cell.num_neurons), {})
            of_seeds |= {name: select_cell(cell, found, [name], behaviour) for name in general}
    rows = []
    for (what, scope, k), recipes in groups.items():
        for first, second in combinations(recipes, 2):
            shared = overlap(recipes[first].neurons, recipes[second].neurons, num_neurons)
            rows.append({"what": what, "scope": scope, "num_neurons": k, "first": first, "second": second,
                         **vars(shared)})  # fmt: skip
    return rows


def layer_shares(planned: Sequence[PlannedCell], num_layers: int) -> dict[int, dict[str, list[float]]]:
    """Share of each plain global selection in each layer, by number of neurons and method."""
    shares: dict[int, dict[str, list[float]]] = {}
    for cell, recipe in ((planned_cell.cell, planned_cell.recipe) for planned_cell in planned):
        if recipe is not None and is_plain(cell) and cell.scope == "global" and cell.method != "random":
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
    for name, content in (("overlap", overlaps), ("at_price", at_prices)):
        write_text(directory / f"{name}.csv", pd.DataFrame(content).to_csv(index=False))


def write_table(rows: Sequence[Mapping[str, Any]], directory: Path) -> None:
    """Write `table.csv` and `table.parquet`, each whole or not at all."""
    # Whole numbers stay whole where the baseline has none.
    table = pd.DataFrame(rows).convert_dtypes()
    write_text(directory / "table.csv", table.to_csv(index=False))
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_bytes(directory / "table.parquet", buffer.getvalue())
