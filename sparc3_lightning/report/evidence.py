"""How firm each change of a run is: what stands beside its interval and its p-value."""

from typing import Any

from sparc3_lightning.report.facts import FigureRow, Table, count_cell, figure_rows, interval_cell
from sparc3_lightning.words import MISSING, number, p_value

_NOTES = {
    "BCa": "BCa: another interval of the same draws, corrected for bias and skewness.",
    "stages": "Two stages: completions drawn again within each drawn prompt, an upper bound of its width.",
    "sizes": "Standardised: mean change in standard deviations of the changes.",
    "ranks": "Rank-biserial: -1 where all that changed fell, 1 where all rose.",
    "seen": "Smallest change seen: with {wanted:.0%} power, by as many prompts.",
    "needed": "Prompts needed: to see the change found with as much, with as many completions each.",
}


def evidence_table(results: dict[str, Any]) -> Table:
    """A second interval and test of each change, its size, and how many prompts it takes to see it."""
    rows = figure_rows(results)
    has_stages = any(row.change["interval_two_stage"] is not None for row in rows)
    powers = [row.change["power"] for row in rows if row.change["power"] is not None]
    confidence = f"{rows[0].change['interval']['confidence']:.0%}"
    head = ["", f"{confidence}, BCa", "Wilcoxon p", "standardised", "rank-biserial", "smallest change seen"]
    head += ["prompts needed", "with 25 completions"]
    if has_stages:
        head.insert(2, f"{confidence}, two stages")
    shown = ["BCa", *(["stages"] if has_stages else []), "sizes", "ranks", *(["seen", "needed"] if powers else [])]
    notes = [_NOTES[name].format(wanted=powers[0]["wanted"] if powers else 0) for name in shown]
    return Table(head, [_row(row, has_stages) for row in rows], " ".join([*notes, *_missing(rows)]))


def _row(row: FigureRow, has_stages: bool) -> list[str]:
    change, power = row.change, row.change["power"] or {}
    stages = [interval_cell(change, "interval_two_stage")] if has_stages else []
    sizes = (change["effect_size"], change["rank_biserial"])
    return [
        row.label,
        interval_cell(change, "interval_bca"),
        *stages,
        p_value(change["p_value_wilcoxon"]),
        *(MISSING if size is None else f"{size:+.2f}" for size in sizes),
        number(power.get("smallest_change")),
        count_cell(power.get("num_needed")),
        count_cell(power.get("num_needed_with_25")),
    ]


def _missing(rows: list[FigureRow]) -> list[str]:
    """Why figures are missing, each reason with the rows that it is about."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.change["power"] is not None and row.change["power"]["missing"]:
            reasons.setdefault(row.change["power"]["missing"], []).append(row.label)
    return [f"Missing of {'; '.join(labels)}: {reason}." for reason, labels in reasons.items()]


def agreement_lines(results: dict[str, Any]) -> list[str]:
    """How far further scorers agree with the first one, in sentences; empty where there is one."""
    return [_agreement_line(found) for found in results["agreement"] or []]


def _agreement_line(found: dict[str, Any]) -> str:
    single, changes = (
        MISSING if value is None else f"{value:.2f}" for value in (found["pearson"], found["pearson_change"])
    )
    same = (
        ""
        if found["same_direction"] is None
        else f"; {found['same_direction']:.0%} of the prompts moved one way by both"
    )
    return (
        f"{found['second']} correlates with {found['first']} by {single} over completions and by {changes} over the "
        f"prompts' changes{same}."
    )
