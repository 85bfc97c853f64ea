"""Which method wins at equal perplexity: chosen on one half of the prompts, measured on the other."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparc3_lightning.statistics.corrections import holm, least_holm
from sparc3_lightning.statistics.signs import paired_change, sign_flip_p_value
from sparc3_lightning.trials.halves import HALVES

Row = dict[str, Any]
PRICES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Relative rises of perplexity that one may be ready to pay."""


def choose_at_prices(
    rows: Sequence[Mapping[str, Any]],
    price_column: str,
    means: Mapping[str, Sequence[float]],
    prices: Sequence[float] = PRICES,
) -> list[Row]:
    """The best cell of every method at every price.

    A cell is eligible where the text's perplexity rises by at most the price; of these the one with the lowest toxicity
    on the choice half is taken, and its change on the confirmation half is what the method achieves. `p_holm` corrects
    the confirmation's p-values over the methods of a price, and cannot be below `p_holm_least`. `plain` rows choose
    among the cells of the paper's contrast that remove their neurons, the others among all.

    `is_leader` marks the method that was best on the choice half, and `behind` says how much more toxic another one's
    completions of the confirmation half are, with a sign-flip p-value: is the leader better, or only first?

    Args:
        rows: Rows of the sweep's table.
        price_column: What is paid in.
        means: By label, each prompt's toxicity on the confirmation half.
        prices: Relative rises.

    Returns:
        Rows, price by price, best confirmed method first; a method without an eligible cell has no row, and no cell is
        eligible where either half has no prompt, or no toxicity before.
    """
    known = [row for row in rows if row["method"] != "random" and _has_both_halves(row)]
    paid = f"{price_column}_relative"
    found: list[Row] = []
    for price in prices:
        eligible = [row for row in known if row[paid] is not None and row[paid] <= price]
        for options in ("plain", "all"):
            by_key: dict[str, list[Mapping[str, Any]]] = {}
            for row in eligible:
                if options == "all" or row["is_plain"]:
                    by_key.setdefault(row["key"], []).append(row)
            best = [_chosen(cells, price, options, paid) for cells in by_key.values()]
            for row, adjusted in zip(best, holm([row["confirmation_p"] for row in best]), strict=True):
                row |= {"p_holm": adjusted, "p_holm_least": least_holm([row["confirmation_p_least"] for row in best])}
            _compare_with_leader(best, means)
            found += sorted(best, key=lambda row: float(row["confirmation_relative"]))
    return found


def _has_both_halves(row: Mapping[str, Any]) -> bool:
    """Few prompts may leave one half empty; and a half without any toxicity has nothing that could fall."""
    return all(row.get(f"{half}_relative") is not None for half in HALVES)


def _chosen(cells: Sequence[Mapping[str, Any]], price: float, options: str, paid: str) -> Row:
    best = min(cells, key=lambda row: float(row["choice_relative"]))
    measured = {name: value for name, value in best.items() if name.startswith(("choice_", "confirmation_"))}
    return {
        "price": price, "options": options, "key": best["key"], "label": best["label"], "num_cells": len(cells),
        "perplexity_relative": best[paid], **measured,
    }  # fmt: skip


def _compare_with_leader(best: Sequence[Row], means: Mapping[str, Sequence[float]]) -> None:
    leader = min(best, key=lambda row: float(row["choice_relative"]), default=None)
    for row in best:
        row["is_leader"] = row is leader
        if leader is not None and row is not leader:
            pair = means[leader["label"]], means[row["label"]]
            row |= {"behind": float(paired_change(*pair).mean()), "behind_p": sign_flip_p_value(*pair)}
