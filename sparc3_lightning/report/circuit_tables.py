"""What circuits' rows say, in sentences and tables: the same in the terminal and on the page. No torch."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from sparc3_lightning.report.rows import Table
from sparc3_lightning.trials import ASKED, EMPTY, WHOLE
from sparc3_lightning.wording import MISSING, p_value, percent

Row = Mapping[str, Any]
Data = Mapping[str, Any]
_RANGES = 6
"""Most ranges of layers that a table tells apart."""


def circuit_lines(data: Data) -> list[str]:
    """What the whole model and the empty circuit do."""
    rows = data["table"]
    failed = [row for row in rows if row.get("error")]
    lines = [f"Failed: {len({(r['task'], r['method'], r['ablation'], r['share']) for r in failed})} circuits, such as "
             f"{failed[0]['method']} at {failed[0]['share']:.1%}: {failed[0]['error']}"] if failed else []  # fmt: skip
    for asked, words in ASKED.items():
        whole = _ends(rows, WHOLE, None, asked)
        if whole is None:
            continue
        empty = {one: _ends(rows, EMPTY, one, asked) for one in _ablations(rows)}
        told = ", ".join(f"{one} {found}" for one, found in empty.items())
        lines.append(f"Asked {words}: logit difference {whole} of the whole model; of the empty circuit, {told}.")
    return lines


def _ends(rows: Sequence[Row], method: str, ablation: str | None, asked: str) -> str | None:
    found = [row for row in rows if row["method"] == method and row["asked"] == asked
             and ablation in (None, row["ablation"]) and row["logit_difference"] is not None]  # fmt: skip
    if not found:
        return None
    difference, right = (mean(row[name] for row in found) for name in ("logit_difference", "accuracy"))
    return f"{difference:+.2f} ({right:.0%} right)"


def _ablations(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["ablation"] for row in rows))


def circuit_tables(data: Data) -> list[Table]:
    """The areas, where what stays lies, and whether the draws agree."""
    areas = [area_table(data["areas"], asked) for asked in ASKED if any(row["asked"] == asked for row in data["areas"])]
    return [*areas, *part_tables(data["parts"]), *draw_tables(data["overlap"])]


def circuit_details(data: Data) -> list[Table]:
    """Every curve, and how far methods agree."""
    curves = [curve_table(data["table"], asked, ablation)
              for asked in ASKED for ablation in _ablations(data["table"])
              if any(row["asked"] == asked for row in data["table"])]  # fmt: skip
    return [*curves, *method_tables(data["overlap"])]


def area_table(areas: Sequence[Row], asked: str) -> Table:
    """CPR and CMD, a line a method and two columns an ablation, best first by the first CPR."""
    ours = [row for row in areas if row["asked"] == asked]
    ablations = _ablations(ours)
    found = {(row["method"], row["ablation"]): row for row in ours}
    first = {method: found.get((method, ablations[0]), {"cpr": float("-inf")})["cpr"] for method, _ in found}
    methods = sorted(first, key=lambda method: -first[method])
    pairs = [(ablation, name) for ablation in ablations for name in ("cpr", "cmd")]
    rows = [[method, *(_area(found.get((method, ablation)), name) for ablation, name in pairs)] for method in methods]
    best = {
        at: (max if name == "cpr" else min)(
            (row[name], method) for (method, of), row in found.items() if of == ablation
        )[1]
        for at, (ablation, name) in enumerate(pairs, start=1)
    }  # fmt: skip
    draws = max(row["num_draws"] for row in ours)
    of = f"Means of {draws} draws of samples; least and largest: areas.csv." if draws > 1 else "One draw of samples."
    note = (
        "By what takes the place of the rest. CPR: area under faithfulness, higher is better; CMD: area between it and "
        f"1, lower is better. {of}"
    )
    return Table(
        ["", *(f"{name.upper()} {ablation}" for ablation, name in pairs)], rows, note,
        f"Areas, asked {ASKED[asked]}",
        strong=frozenset((methods.index(method), at) for at, method in best.items()),
    )  # fmt: skip


def _area(row: Row | None, name: str) -> str:
    return MISSING if row is None else f"{row[name]:.2f}"


def curve_table(rows: Sequence[Row], asked: str, ablation: str) -> Table:
    """Faithfulness of each method at each share, and how often the right token is above the wrong one."""
    ours = [row for row in rows if row["asked"] == asked and row["ablation"] == ablation
            and row["method"] not in (EMPTY, WHOLE) and row["share"] < 1]  # fmt: skip
    shares = sorted({row["share"] for row in ours})
    cells: dict[str, list[str]] = {}
    for method in dict.fromkeys(row["method"] for row in ours):
        cells[method] = [_point([row for row in ours if row["method"] == method and row["share"] == s]) for s in shares]
    return Table(
        ["", *(f"{100 * share:g} %" for share in shares)], [[method, *found] for method, found in cells.items()],
        "Mean over the draws; in brackets the share of samples whose right token is above the wrong one.",
        f"Faithfulness, asked {ASKED[asked]}; the rest: {ablation}",
    )  # fmt: skip


def _point(rows: Sequence[Row]) -> str:
    known = [row["faithfulness"] for row in rows if row.get("faithfulness") is not None]
    right = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    return f"{mean(known):.2f} ({mean(right):.0%})" if known else MISSING


def part_tables(parts: Sequence[Row]) -> list[Table]:
    """Where what stays lies: how much of each range of layers, and of each kind of layer."""
    if not parts:
        return []
    num_layers = max(row["layer"] for row in parts) + 1
    step = -(-num_layers // min(_RANGES, num_layers))
    ranges = {
        first: f"{first}-{min(first + step, num_layers) - 1}" if step > 1 else str(first)
        for first in range(0, num_layers, step)
    }
    by_layer = _part_table(
        parts, {row["layer"]: ranges[row["layer"] // step * step] for row in parts}, "layer", "layers"
    )
    kinds = {row["kind"]: row["kind"] for row in parts}
    return [by_layer, *([_part_table(parts, kinds, "kind", "kinds of layer")] if len(kinds) > 1 else [])]


def _part_table(parts: Sequence[Row], names: Mapping[Any, str], key: str, what: str) -> Table:
    columns = list(dict.fromkeys(names.values()))
    share = sum(row["num_kept"] for row in parts) / sum(row["num"] for row in parts)
    rows = []
    for method in dict.fromkeys(row["method"] for row in parts):
        ours = [row for row in parts if row["method"] == method]
        of = [[row for row in ours if names[row[key]] == column] for column in columns]
        rows.append([method, *(percent(sum(r["num_kept"] for r in one) / sum(r["num"] for r in one)) for one in of)])
    rows = [[row[0], *(cell.removeprefix("+") for cell in row[1:])] for row in rows]
    return Table(
        ["", *columns], rows, "Share of each that stays, over all draws.",
        f"Where the circuits of {percent(share).removeprefix('+')} lie, by {what}",
    )  # fmt: skip


def draw_tables(overlaps: Sequence[Row]) -> list[Table]:
    """How far the circuits of a method agree between the draws (or tasks)."""
    ours = [row for row in overlaps if row["what"] == "tasks"]
    rows = []
    for method in dict.fromkeys(row["of"] for row in ours):
        pairs = [row for row in ours if row["of"] == method]
        rows.append([
            method, f"{mean(row['jaccard'] for row in pairs):.2f}",
            f"{mean(row['num_shared'] for row in pairs):,.0f}", f"{mean(row['expected'] for row in pairs):,.0f}",
        ])  # fmt: skip
    note = "Means over every two draws. Jaccard: what both keep, of what either keeps."
    return [Table(["", "Jaccard", "shared", "by chance"], rows, note, "Do the draws' circuits agree?")] if rows else []


def method_tables(overlaps: Sequence[Row]) -> list[Table]:
    """How far the circuits of every two methods agree, on the first draw."""
    ours = [row for row in overlaps if row["what"] == "methods"]
    ours = [row for row in ours if row["of"] == ours[0]["of"]]
    rows = [[row["first"], row["second"], f"{row['jaccard']:.2f}", f"{row['num_shared']:,}",
             f"{row['expected']:,.0f}", p_value(row["p_value"])] for row in ours]  # fmt: skip
    head = ["", "", "Jaccard", "shared", "by chance", "p"]
    note = "p: that random circuits of these sizes share as much (hypergeometric, not corrected)."
    return [Table(head, rows, note, f"What methods share, {ours[0]['of']}", num_names=2)] if rows else []
