"""Which method wins at an equal price: chosen on one half of the prompts, measured on the other.

The best of many cells on some prompts is best there by luck, too. Its change on prompts that it was not chosen on is
free of that luck.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.metrics.measure import Column
from sparc3_lightning.statistics.compare import Change, compare
from sparc3_lightning.statistics.intervals import paired_change
from sparc3_lightning.statistics.p_values import PairedTest, holm, least_holm, sign_flip_p_values
from sparc3_lightning.trials import CONTROL

Row = dict[str, Any]
Half = Literal["choice", "confirmation"]
HALVES: tuple[Half, Half] = ("choice", "confirmation")
PRICES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Relative rises of the price that one may be ready to pay."""


def half_of(prompt_id: str) -> Half:
    """Which half a prompt belongs to, by a hash of its id: the same in every cell, run and order."""
    # Not the hash that parts prompts into attribution and evaluation: it would put all of one part into one half.
    return HALVES[hashlib.sha256(f"half/{prompt_id}".encode()).digest()[0] % 2]


def deciding(evaluation: Evaluation) -> list[str]:
    """Columns that cells are chosen by: the behaviour's mean, and other scorers' word on it; none where none was asked.

    The mean moves with every completion, where a verdict may go by the worst of many.
    """
    columns = evaluation.columns
    names = [name for name, column in columns.items() if column.role in ("behaviour", "opinion")]
    means = {name: f"{name.rpartition('/')[0]}/mean" for name in names}
    return [means[name] if means[name] in columns else name for name in names]


def half_changes(before: Evaluation, after: Evaluation, test: PairedTest) -> dict[Half, dict[str, Change]]:
    """Change of the deciding columns on either half.

    Args:
        before: The baseline's.
        after: A cell's, of the same prompts.
        test: Settings of the statistics.

    Returns:
        By half, by column; a half without a prompt is left out.
    """
    found = {half: compare(_on_half(before, half), _on_half(after, half), test) for half in HALVES}
    return {half: changes for half, changes in found.items() if changes}


def _on_half(evaluation: Evaluation, half: Half) -> dict[str, Column]:
    columns = {name: evaluation.columns[name] for name in deciding(evaluation)}
    return {
        name: column.take([place for place, row in enumerate(column.ids) if half_of(row) == half])
        for name, column in columns.items()
    }


def confirmation_means(evaluation: Evaluation) -> list[float]:
    """The first deciding column at each prompt of the confirmation half: what pairs two cells."""
    column = next(iter(_on_half(evaluation, "confirmation").values()), None)
    means: list[float] = [] if column is None else column.by_row.tolist()
    return means


def choose_at_prices(
    rows: Sequence[Mapping[str, Any]],
    price_column: str,
    means: Mapping[str, Sequence[float]],
    prices: Sequence[float] = PRICES,
) -> list[Row]:
    """The best cell of every method at every price.

    A cell is eligible where the price gets worse by at most so much; of these the one that lowers the behaviour most
    on the choice half is taken, and its change on the confirmation half is what the method achieves. `p_holm` corrects
    the confirmation's p-values over the methods of a price, and cannot be below `p_holm_least`. `plain` rows choose
    among the cells of the paper's contrast that remove their neurons, the others among all.

    `is_leader` marks the method that was best on the choice half, and `behind` says how much worse another one is on
    the confirmation half, with a sign-flip p-value: is the leader better, or only first?

    Args:
        rows: Rows of the sweep's table.
        price_column: What is paid in.
        means: By label, what each did at each prompt of the confirmation half.
        prices: Relative rises.

    Returns:
        Rows, price by price, best confirmed method first; a method without an eligible cell has no row, and no cell is
        eligible where either half has no prompt, or none of the behaviour before.
    """
    known = [row for row in rows if row["method"] != CONTROL and _has_both_halves(row)]
    paid = f"{price_column}_paid"
    found: list[Row] = []
    for price in prices:
        eligible = [row for row in known if row[paid] is not None and row[paid] <= price]
        for options in ("plain", "all"):
            by_key: dict[str, list[Mapping[str, Any]]] = {}
            for row in eligible:
                if options == "all" or row["is_plain"] or row.get("own_factors"):
                    by_key.setdefault(_competitor(row), []).append(row)
            best = [_chosen(cells, price, options, price_column) for cells in by_key.values()]
            for row, adjusted in zip(best, holm([row["confirmation_p"] for row in best]), strict=True):
                row |= {"p_holm": adjusted, "p_holm_least": least_holm([row["confirmation_p_least"] for row in best])}
            _compare_with_leader(best, means)
            found += sorted(best, key=lambda row: float(row["confirmation_relative"]))
    return found


def _competitor(row: Mapping[str, Any]) -> str:
    """The method's key; AurA, which dampens each neuron by its own factor, competes beside its AUROC."""
    return f"{row['key']}, own factors" if row.get("own_factors") else str(row["key"])


def _has_both_halves(row: Mapping[str, Any]) -> bool:
    """Few prompts may leave one half empty; and a half without any of the behaviour has nothing that could fall."""
    return all(row.get(f"{half}_relative") is not None for half in HALVES)


def _chosen(cells: Sequence[Mapping[str, Any]], price: float, options: str, price_column: str) -> Row:
    best = min(cells, key=lambda row: float(row["choice_relative"]))
    measured = {name: value for name, value in best.items() if name.startswith(("choice_", "confirmation_"))}
    return {
        "price": price, "options": options, "key": _competitor(best), "label": best["label"], "num_cells": len(cells),
        f"{price_column.partition('_')[0]}_relative": best[f"{price_column}_relative"], **measured,
    }  # fmt: skip


def _compare_with_leader(best: Sequence[Row], means: Mapping[str, Sequence[float]]) -> None:
    leader = min(best, key=lambda row: float(row["choice_relative"]), default=None)
    for row in best:
        row["is_leader"] = row is leader
        if leader is not None and row is not leader:
            change = paired_change(means[leader["label"]], means[row["label"]])
            row |= {"behind": float(change.mean()), "behind_p": sign_flip_p_values(change.unsqueeze(1))[0]}
