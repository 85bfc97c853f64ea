"""Several behaviours of one run, as tables: what each recipe does, and how far their neurons or weights agree."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparc3_lightning.report.rows import Table, kind_of, of_weights, what_went
from sparc3_lightning.wording import MISSING, p_value, percent, signed, spoken

Row = Mapping[str, Any]
ALPHA = 0.05
_BY_RECIPE = "recipe"


def recipe_table(recipes: Sequence[Row]) -> Table:
    """What every recipe does: a row each, a column a measure; of the attribute that decides only what decides.

    Where recipes are judged by different attributes, a column says by which.
    """
    what, deciding = what_went(recipes[0]), [row for row in recipes if row["role"] == "behaviour"]
    decides = {kind_of(row["column"]) for row in deciding}
    judged = {row["recipe"]: spoken(kind_of(row["column"])) for row in reversed(deciding)}  # a recipe's first decides
    differ = len({*judged.values()}) > 1
    shown = dict.fromkeys(
        row["column"]
        for row in recipes
        if row["role"] not in ("beside", "logged")
        or (row["role"] == "logged" and kind_of(row["column"]) not in decides)
    )
    found: dict[str, dict[str, Row]] = {}
    for row in recipes:
        found.setdefault(row["recipe"], {})[row["column"]] = row
    cells = [
        [
            name, f"{next(iter(rows.values()))[f'num_{what}']:,}", *[judged.get(name, MISSING)] * differ,
            *(_change(rows.get(column)) for column in shown),
        ]
        for name, rows in found.items()
    ]  # fmt: skip
    has_control = any(row["p_against_control"] is not None for row in recipes)
    beside = f" and against random {what} of the same layers" if has_control else ""
    note = (
        "Change against the baseline, of a figure below 0 the difference. *: significant against it, corrected over "
        f"the recipes (Holm){beside}, at {ALPHA:g}. Each recipe's directory has its intervals and its page."
    )
    head = ["recipe", what, *["judged by"] * differ, *map(spoken, shown)]
    return Table(head, cells, note, "Behaviours side by side")


def _change(row: Row | None) -> str:
    if row is None:
        return MISSING
    against, before = row["p_against_control"], row["baseline"]
    sides = [row["pruned"] - before, *([] if against is None else [row["pruned"] - row["control"]])]
    is_significant = row["p_holm"] < ALPHA and (against is None or against < ALPHA) and sides[0] * sides[-1] > 0
    change = signed(row["pruned"] - before, beside=before) if before < 0 else percent(row["relative"])
    return change + ("*" if is_significant else "")


def overlap_table(overlaps: Sequence[Row]) -> Table:
    """How far every two behaviours agree: a row a pair and number of neurons, or weights."""
    what = what_went(overlaps[0])
    head = ["behaviours", what, "shared", "by chance", "enrichment", "Jaccard", "p (Holm)", "correlation",
            "shared texts", "shared general texts"]  # fmt: skip
    rows = [
        [
            f"{row['first']}, {row['second']}",
            "recipes" if row["what"] == _BY_RECIPE else f"first {row[f'num_{what}']:,}",
            f"{row['num_shared']:,}",
            f"{row['expected']:.2g}",
            f"{row['enrichment']:{',.0f' if row['enrichment'] >= 100 else '.3g'}} x",
            f"{row['jaccard']:.2f}",
            p_value(row["p_holm"]),
            MISSING if row["correlation"] is None else f"{row['correlation']:+.2f}",
            f"{row['num_shared_texts']:,}",
            f"{row['num_shared_general']:,}" if "num_shared_general" in row else MISSING,
        ]
        for row in overlaps
    ]
    over = "the sums of all rows of weights" if of_weights(overlaps[0]) else "all neurons"
    note = (
        f"Shared: of the first {what} by both differentials, or of both recipes. By chance, and p: as random {what} "
        "would share (hypergeometric, corrected over the pairs). Correlation: Spearman's, of the differentials over "
        f"{over}. Behaviours that were attributed on the same texts, or are contrasted with the same general texts, "
        f"share {what} for that reason, too. Chance is that of {what} drawn at random: two contrasts of ordinary "
        "words alone share more. A run that names ordinary words as a behaviour measures that floor "
        "(docs/own_behaviour.md)."
    )
    return Table(head, rows, note, f"Do the behaviours share {what}?")
