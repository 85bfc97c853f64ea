"""Several behaviours of one run: how far their neurons, or weights, agree; what each recipe does to every measure."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from sparc3_lightning.files import write_text
from sparc3_lightning.pruning.aims import Aim
from sparc3_lightning.pruning.recipe import NEURONS, WEIGHTS
from sparc3_lightning.pruning.select import Scope, first_of, neuron_scores, rank_neurons
from sparc3_lightning.pruning.select_weights import extreme_weights
from sparc3_lightning.pruning.weight_recipe import AnyRecipe
from sparc3_lightning.scoring.lazy import summaries
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.statistics.p_values import Members, holm, num_members, pairwise_overlaps
from sparc3_lightning.statistics.prediction import rank_correlation

Row = dict[str, Any]
Pair = tuple[str, str]
Selections = Mapping[str, Members]
BY_DIFFERENTIAL, BY_RECIPE = "differential", "recipe"
RECIPES_FILE = "behaviours.csv"


def compare_behaviours(
    differentials: Mapping[str, ScoreSet],
    sizes: Sequence[int],
    scope: Scope = "global",
    recipes: Mapping[str, AnyRecipe] | None = None,
    shared_texts: Mapping[Pair, int] | None = None,
    sparsity: float | None = None,
    shared_general: Mapping[Pair, int] | None = None,
) -> list[Row]:
    """How far every two behaviours agree: a row a pair, of the first neurons by the differentials, and of the recipes.

    Of single weights the same: of the first by the differentials as large a share as goes.

    Behaviours that are contrasted with the same general samples agree for that alone: a neuron that serves these little
    comes early in every differential, and random neurons are what p holds against. Texts that two behaviours share do
    the rest.

    Args:
        differentials: By behaviour; two or more.
        sizes: Numbers of neurons, k: the first k of each differential are compared.
        scope: Where scores compete.
        recipes: By behaviour its recipe, where a screen chose it; none otherwise.
        shared_texts: How many texts two behaviours were both attributed on.
        sparsity: In the place of `sizes`, of weights: the share of all that is compared.
        shared_general: How many texts the sets have in common that the two are contrasted with.

    Returns:
        Of each pair how many neurons (or weights) both have, of those in either (`jaccard`), what random selections
        would share (`expected`), how many times as many are shared (`enrichment`), its chance (`p_value`;
        hypergeometric) and that corrected over the pairs of one size (`p_holm`; Holm), and Spearman's `correlation` of
        the differentials over all neurons, or over the sums of all rows.
    """
    what = NEURONS if sparsity is None else WEIGHTS
    flat = {name: torch.cat(_all_rows(one, what)).numpy() for name, one in differentials.items()}
    total = min(len(flat[name]) if what == NEURONS else one.num_scores for name, one in differentials.items())
    found = {pair: rank_correlation(flat[pair[0]], flat[pair[1]]) for pair in combinations(flat, 2)}
    compared = [(BY_DIFFERENTIAL, first) for first in _firsts(differentials, sizes, scope, sparsity)]
    if recipes:
        compared.append((BY_RECIPE, {name: recipe.per_layer() for name, recipe in recipes.items()}))
    rows = [row for by, selections in compared for row in _rows(by, what, selections, total)]
    for row in rows:
        pair = row["first"], row["second"]
        row |= {
            "correlation": found[pair], "num_shared_texts": (shared_texts or {}).get(pair, 0),
            "num_shared_general": (shared_general or {}).get(pair, 0),
        }  # fmt: skip
    return rows


def _all_rows(scores: ScoreSet, what: str) -> list[Tensor]:
    """Score of every neuron, or the sums of every row of weights: so many weights are in no order."""
    if what == NEURONS:
        return [*neuron_scores(scores).values()]
    return [summary.rows for _, summary in sorted(summaries(scores.scores).items())]


def _firsts(
    differentials: Mapping[str, ScoreSet], sizes: Sequence[int], scope: Scope, sparsity: float | None
) -> list[Selections]:
    if sparsity is not None:
        return [{name: dict(extreme_weights(one, sparsity, scope)) for name, one in differentials.items()}]
    ordered = {name: rank_neurons(one, scope) for name, one in differentials.items()}
    return [{name: first_of(ranking, k) for name, ranking in ordered.items()} for k in sizes]


def _rows(by: str, what: str, selections: Selections, total: int) -> list[Row]:
    found = pairwise_overlaps(selections, total)
    corrected = holm([one.p_value for one in found.values()])
    num = None if by == BY_RECIPE else max(map(num_members, selections.values()))  # of recipes each has its own
    return [
        {
            "what": by, f"num_{what}": num, "first": pair[0], "second": pair[1], **vars(one),
            "enrichment": one.num_shared / one.expected, "p_holm": p_holm,
        }
        for (pair, one), p_holm in zip(found.items(), corrected, strict=True)
    ]  # fmt: skip


def recipe_rows(results: Mapping[str, Mapping[str, Any]], aims: Mapping[str, Aim]) -> list[Row]:
    """What every recipe does to every measure: a row of each, in the recipes' order.

    Args:
        results: By recipe what `experiment_results.json` holds of it alone.
        aims: By recipe what it is for.

    Returns:
        Of each its change against the baseline, with its interval and p-value; that corrected over the recipes, of one
        measure at a time (`p_holm`); and the control's mean and the p-value against it, None without a control.
    """
    rows, columns = [], [(name, one) for found in results.values() for name, one in found["columns"].items()]
    decide = {name for name, one in columns if one["role"] == "behaviour"}  # of any: seen beside each other
    for name, found in results.items():
        selection, counts = found["selection"], (f"num_{NEURONS}", f"num_{WEIGHTS}")
        told = {
            "recipe": name, "kind": aims[name].kind, "behaviours": " ".join(aims[name].behaviours),
            **{count: selection[count] for count in counts if count in selection},
        }  # fmt: skip
        known = {key: one for key, one in found["columns"].items() if one["change"]}
        shown = {key: one for key, one in known.items() if one["role"] != "detail" or key in decide}
        rows += [{**told, "column": key, **_figures(one)} for key, one in shown.items()]
    for of_column in _grouped(rows, "column").values():
        corrected = holm([row["p_value"] for row in of_column])
        for row, p_holm in zip(of_column, corrected, strict=True):
            row["p_holm"] = p_holm
    return rows


def _figures(column: Mapping[str, Any]) -> Row:
    change, control, against = column["change"], column["control"], column["change_against_control"]
    return {
        "role": column["role"], "better": column["better"], "baseline": change["before"], "pruned": change["after"],
        "relative": change["relative"], "low": change["interval"]["low"], "high": change["interval"]["high"],
        "p_value": change["p_value"], "control": None if control is None else control["mean"],
        "p_against_control": None if against is None else against["p_value"],
    }  # fmt: skip


def _grouped(rows: Sequence[Row], key: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def write_rows(rows: Sequence[Row], path: Path) -> Path:
    """Write a table as CSV, whole or not at all."""
    return write_text(path, pd.DataFrame(rows).convert_dtypes().to_csv(index=False))
