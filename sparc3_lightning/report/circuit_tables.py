"""What circuits' rows say, in sentences and tables: the same in the terminal and on the page. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from statistics import mean
from typing import Any

from sparc3_lightning.report.rows import Table
from sparc3_lightning.trials import ASKED, EMPTY, HELD_OUT, IN_SAMPLE, WHOLE
from sparc3_lightning.wording import MISSING, p_value, percent, task_name

Row = Mapping[str, Any]
Data = Mapping[str, Any]
_RANGES = 6
"""Most ranges of layers that a table tells apart."""
_BEST_BY = {"CMD": "cmd", "accuracy": "accuracy_area"}
"""Areas by which a method is called the best, by their short names."""
_SHORT = {IN_SAMPLE: "own", HELD_OUT: "held-out"}


def as_now(data: Data) -> Data:
    """Tables of an earlier version as today's are: its `task` was a draw's name, and all draws were of one task."""
    draws = list(dict.fromkeys(row["task"] for row in data["table"] if "draw" not in row))
    if not draws:
        return data
    task, whats = task_name(draws), {"tasks": "draws"}
    return {
        **{name: [{**row, "task": task, "draw": row["task"]} for row in data[name]] for name in ("table", "parts")},
        "areas": [{**row, "task": task} for row in data["areas"]],
        "overlap": [{**row, "task": task, "other_task": task, "what": whats.get(row["what"], row["what"])}
                    for row in data["overlap"]],
    }  # fmt: skip


def circuit_lines(data: Data) -> list[str]:
    """What the whole model and the empty circuit do."""
    rows = data["table"]
    failed = [row for row in rows if row.get("error")]
    lines = [f"Failed: {len({(r['draw'], r['method'], r['ablation'], r['share']) for r in failed})} circuits, such as "
             f"{failed[0]['method']} at {failed[0]['share']:.1%}: {failed[0]['error']}"] if failed else []  # fmt: skip
    for task, asked, ours in _questions(rows):
        whole = _ends(ours, WHOLE, None)
        if whole is None:
            continue
        empty = {one: _ends(ours, EMPTY, one) for one in _ablations(ours)}
        told = ", ".join(f"{one} {found}" for one, found in empty.items())
        lines.append(
            f"Asked {_asked(task, asked, rows)}: logit difference {whole} of the whole model; of the empty circuit, "
            f"{told}."
        )
    return lines


def _questions(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """The rows of each task and what was asked of it."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["task"], row["asked"]), []).append(row)
    tasks = list(dict.fromkeys(task for task, _ in found))
    return [(task, asked, found[task, asked]) for task in tasks for asked in ASKED if (task, asked) in found]


def _asked(task: str, asked: str, rows: Sequence[Row]) -> str:
    """What was asked, in words; of which task, where there are several."""
    return f"{ASKED[asked]} of {task}" if _has_tasks(rows) else ASKED[asked]


def _has_tasks(rows: Sequence[Row]) -> bool:
    return len({row["task"] for row in rows}) > 1


def _ends(rows: Sequence[Row], method: str, ablation: str | None) -> str | None:
    found = [row for row in rows if row["method"] == method and ablation in (None, row["ablation"])
             and row["logit_difference"] is not None]  # fmt: skip
    if not found:
        return None
    difference, right = (mean(row[name] for row in found) for name in ("logit_difference", "accuracy"))
    own = [row["argmax_accuracy"] for row in found if row.get("argmax_accuracy") is not None and method == WHOLE]
    by_choice = f", {mean(own):.0%} by its own choice" if own else ""
    return f"{difference:+.2f} ({right:.0%} right{by_choice})"


def _ablations(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["ablation"] for row in rows))


def circuit_tables(data: Data) -> list[Table]:
    """The areas, where what stays lies, and whether draws and tasks agree."""
    areas, ends = data["areas"], data["ends"]
    of_areas = [area_table(ours, _asked(task, asked, areas), _caution(ends, task, asked))
                for task, asked, ours in _questions(areas)]  # fmt: skip
    tables = [*of_areas, *accuracy_tables(areas), *behind_tables(areas, ends), *part_tables(data["parts"])]
    return [*tables, *agreement_tables(data["overlap"])]


def circuit_details(data: Data) -> list[Table]:
    """Every curve, and how far methods agree."""
    table, ends = data["table"], data["ends"]
    curves = [curve_table(ours, _asked(task, asked, table), ablation, _caution(ends, task, asked, ablation))
              for task, asked, ours in _questions(table) for ablation in _ablations(table)]  # fmt: skip
    return [*curves, *method_tables(data["overlap"])]


def _caution(ends: Sequence[Row], task: str, asked: str, ablation: str | None = None) -> str:
    """Where faithfulness is not what it seems; one draw of which that holds is enough.

    Args:
        ends: See `trials.circuit_areas.end_rows`.
        task: Whose table it is.
        asked: And of what.
        ablation: Under which; None for all.
    """
    ours = [row for row in ends if (row["task"], row["asked"]) == (task, asked) and ablation in (None, row["ablation"])]
    found = ""
    if alike := [row for row in ours if row["low"] is None or row["low"] <= 0]:
        found += (
            f" Faithfulness, and with it CPR and CMD, means nothing under {', '.join(_ablations(alike))}: the whole "
            "model's logit difference is not clearly above the empty circuit's there "
            f"({alike[0]['confidence']:.0%} interval over samples)."
        )
    if away := [row for row in ours if _is_away(row)]:
        told = {one: mean(row["empty"] for row in away if row["ablation"] == one) for one in _ablations(away)}
        found += (
            f" Faithfulness 0 is not chance under {', '.join(told)}: the empty circuit's own logit difference "
            f"({', '.join(f'{empty:+.2f}' for empty in told.values())}) is clearly not 0 there, and more than a "
            "quarter of the whole model's."
        )
    return found


def _is_away(row: Row) -> bool:
    """Whether an empty circuit has a preference of its own, of a size that counts."""
    if row.get("empty_low") is None:  # runs of before did not say
        return False
    is_clear = row["empty_low"] > 0 or row["empty_high"] < 0
    return bool(is_clear and abs(row["empty"]) > abs(row["whole"]) / 4)


def cautions(data: Data) -> list[str]:
    """Where the faithfulness of a run's circuits is not what it seems, by what was asked."""
    ends = data.get("ends", [])
    found = {_asked(task, asked, ends): _caution(ends, task, asked).strip() for task, asked, _ in _questions(ends)}
    return [f"Asked {asked}: {said}" for asked, said in found.items() if said]


def area_table(areas: Sequence[Row], asked: str, caution: str = "") -> Table:
    """CPR and CMD, a line a method and two columns an ablation, best first by the first CPR.

    Args:
        areas: Of one task and kind of question.
        asked: What that is, in words.
        caution: Added to the note.
    """
    columns = {
        f"{name.upper()} {ablation}": (name, [row for row in areas if row["ablation"] == ablation])
        for ablation in _ablations(areas)
        for name in ("cpr", "cmd")
    }
    note = (
        "By what takes the place of the rest. CPR: area under faithfulness, higher is better; CMD: area between it and "
        f"1, lower is better. {_draws(areas)}{_brackets(areas)}{caution}"
    )
    return _ranked(columns, note, f"Areas, asked {asked}")


def accuracy_tables(areas: Sequence[Row]) -> list[Table]:
    """The area under accuracy, a table a task: a line a method, a column an ablation and kind of question."""
    tables = []
    for task in dict.fromkeys(row["task"] for row in areas if "accuracy_area" in row):  # runs of before had none
        ours = [row for row in areas if row["task"] == task]
        columns = {
            f"{ablation} {_SHORT[asked]}": ("accuracy_area", [row for row in found if row["ablation"] == ablation])
            for ablation in _ablations(ours)
            for _, asked, found in _questions(ours)
        }
        of_task = f" of {task}" if _has_tasks(areas) else ""
        whose = " and ".join(_SHORT[asked] for _, asked, _ in _questions(ours))
        note = f"Asked {whose} samples; accuracy as it is, higher is better. {_draws(ours)}{_brackets(ours)}"
        tables.append(_ranked(columns, note, f"Area under accuracy{of_task}"))
    return tables


def behind_tables(areas: Sequence[Row], ends: Sequence[Row] = ()) -> list[Table]:
    """How far each method lies behind the best one, a table a task; of held-out samples where there are some.

    Runs of before did not say: they have none. By CMD "best" means nothing where faithfulness does not (`ends`).
    """
    known, tables = [row for row in areas if row.get("cmd_behind") is not None], []
    for task in dict.fromkeys(row["task"] for row in known):
        *_, (_, asked, ours) = [one for one in _questions(known) if one[0] == task]
        columns = {
            f"{short} {ablation}": (f"{name}_behind", [row for row in ours if row["ablation"] == ablation])
            for (short, name), ablation in product(_BEST_BY.items(), _ablations(ours))
        }
        note = (
            "By how much CMD, or the area under accuracy, is worse than the best method's: paired, not corrected for "
            "the number of methods. Bold: the best, and what is not clearly behind it."
            f"{_brackets(ours)}{_caution(ends, task, asked)}"
        )
        tables.append(_ranked(columns, note, f"How far behind the best, asked {_asked(task, asked, areas)}"))
    return tables


def _ranked(columns: Mapping[str, tuple[str, Sequence[Row]]], note: str, title: str) -> Table:
    """A line a method, best first by the first column; the best of each column is to be seen first.

    Args:
        columns: By what they are called, the area and the rows, at most one of each method.
        note: What must be known to read it.
        title: What it shows.
    """
    columns = {head: column for head, column in columns.items() if column[1]}  # of a question that failed there is none
    cells = [{row["method"]: _cell(row, name) for row in rows} for name, rows in columns.values()]
    name, rows = next(iter(columns.values()))
    best_first = [row["method"] for row in sorted(rows, key=lambda row: _size(row, name))]
    methods = list(dict.fromkeys([*best_first, *(method for column in cells for method in column)]))
    strong = frozenset(
        (methods.index(method), at)
        for at, (name, rows) in enumerate(columns.values(), start=1)
        for method in _best(name, rows)
    )
    shown = [[method, *(one.get(method, MISSING) for one in cells)] for method in methods]
    return Table(["", *columns], shown, note, title, strong=strong)


def _size(row: Row, name: str) -> float:
    """A figure by which better ones come first."""
    return float(row[name]) if name.startswith("cmd") or name.endswith("_behind") else -float(row[name])


def _best(name: str, rows: Sequence[Row]) -> list[str]:
    """The best method; and where it is said how far the others lie behind it, those that do not clearly."""
    first = min(rows, key=lambda row: _size(row, name))
    near = [
        row for row in rows if name.endswith("_behind") and (low := row.get(f"{name}_low")) is not None and low <= 0
    ]
    return [row["method"] for row in [first, *near]]


def _cell(row: Row, name: str) -> str:
    """A figure, and its interval in a line of its own."""
    if name.endswith("_behind") and not row[name]:
        return "best"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return f"{row[name]:z.2f}" + ("" if low is None or high is None else f"\n[{low:z.2f}, {high:z.2f}]")


def _brackets(areas: Sequence[Row]) -> str:
    known = [row["confidence"] for row in areas if row.get("confidence")]
    return f" In brackets: {known[0]:.0%} interval over the samples asked." if known else ""


def _draws(areas: Sequence[Row]) -> str:
    """Of how many draws the areas are means; a curve with a failed circuit counts for nothing."""
    draws = max(row["num_draws"] for row in areas)
    if draws == 1:
        return "One draw of samples."
    fewer = dict.fromkeys(row["method"] for row in areas if row["num_draws"] < draws)
    without = f" (of fewer where a circuit has failed: {', '.join(fewer)})" if fewer else ""
    return f"Means of {draws} draws of samples{without}; least and largest: areas.csv."


def curve_table(rows: Sequence[Row], asked: str, ablation: str, caution: str = "") -> Table:
    """Faithfulness of each method at each share, and how often the right token is above the wrong one.

    Args:
        rows: Of one task and kind of question.
        asked: What that is, in words.
        ablation: Which of the rows to show.
        caution: Added to the note.
    """
    ours = [row for row in rows if row["ablation"] == ablation and row["method"] not in (EMPTY, WHOLE)
            and row["share"] < 1]  # fmt: skip
    shares = sorted({row["share"] for row in ours})
    cells: dict[str, list[str]] = {}
    for method in dict.fromkeys(row["method"] for row in ours):
        cells[method] = [_point([row for row in ours if row["method"] == method and row["share"] == s]) for s in shares]
    return Table(
        ["", *(f"{100 * share:g} %" for share in shares)], [[method, *found] for method, found in cells.items()],
        f"Mean over the draws; in brackets the share of samples whose right token is above the wrong one.{caution}",
        f"Faithfulness, asked {asked}; the rest: {ablation}",
    )  # fmt: skip


def _point(rows: Sequence[Row]) -> str:
    known = [row["faithfulness"] for row in rows if row.get("faithfulness") is not None]
    right = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    return f"{mean(known):z.2f} ({mean(right):.0%})" if known else MISSING


def part_tables(parts: Sequence[Row]) -> list[Table]:
    """Where what stays lies: how much of each range of layers, and of each kind of layer."""
    if not parts:
        return []
    ranges = layer_ranges(max(row["layer"] for row in parts) + 1)
    by_layer = _part_table(parts, {row["layer"]: ranges[row["layer"]] for row in parts}, "layer", "layers")
    kinds = {row["kind"]: row["kind"] for row in parts}
    return [by_layer, *([_part_table(parts, kinds, "kind", "kinds of layer")] if len(kinds) > 1 else [])]


def layer_ranges(num_layers: int) -> dict[int, str]:
    """Name of the range that each layer lies in: few enough for a table."""
    step = -(-num_layers // min(_RANGES, num_layers))
    firsts = [layer // step * step for layer in range(num_layers)]
    return {
        layer: f"{first}-{min(first + step, num_layers) - 1}" if step > 1 else str(first)
        for layer, first in enumerate(firsts)
    }


def _part_table(parts: Sequence[Row], names: Mapping[Any, str], key: str, what: str) -> Table:
    columns = list(dict.fromkeys(names.values()))
    share = sum(row["num_kept"] for row in parts) / sum(row["num"] for row in parts)
    rows = {}
    for task, method in dict.fromkeys((row["task"], row["method"]) for row in parts):
        ours = [row for row in parts if (row["task"], row["method"]) == (task, method)]
        of = [[row for row in ours if names[row[key]] == column] for column in columns]
        shares = (percent(sum(r["num_kept"] for r in one) / sum(r["num"] for r in one), sign="") for one in of)
        rows[task, method] = list(shares)
    title = f"Where the circuits of {percent(share, sign='')} lie, by {what}"
    return _named(Table(columns, [], "Share of each that stays, over all draws.", title), rows, _has_tasks(parts))


def _named(table: Table, rows: Mapping[tuple[str, str], Sequence[str]], has_tasks: bool) -> Table:
    """The table with rows of each task and method; tasks are named where there are several."""
    num = 1 + has_tasks
    cells = [[*name[-num:], *figures] for name, figures in rows.items()]
    return replace(table, head=[*[""] * num, *table.head], rows=cells, num_names=num)


def agreement_tables(overlaps: Sequence[Row]) -> list[Table]:
    """How far the circuits of a method agree between the draws of a task, and between tasks."""
    has_tasks, tables = any(row["task"] != row["other_task"] for row in overlaps), list[Table]()
    for what, pairs, title in (
        ("draws", "every two draws", "Do the draws' circuits agree?"),
        ("tasks", "every draw of one with every draw of the other", "Do the tasks share a circuit?"),
    ):
        rows = _agreement([row for row in overlaps if row["what"] == what])
        note = f"Means over {pairs}. Jaccard: what both keep, of what either keeps."
        table = Table(["Jaccard", "shared", "by chance"], [], note, title)
        tables += [_named(table, rows, has_tasks)] if rows else []
    return tables


def _agreement(overlaps: Sequence[Row]) -> dict[tuple[str, str], list[str]]:
    """What is shared, by the task (or both of them) and the method."""
    found: dict[str, dict[str, list[Row]]] = {}
    known = list(dict.fromkeys(row[name] for row in overlaps for name in ("task", "other_task")))
    for row in overlaps:  # draws of two tasks may come in turns: a, b, a
        tasks = sorted({row["task"], row["other_task"]}, key=known.index)
        found.setdefault(", ".join(tasks), {}).setdefault(row["of"], []).append(row)
    return {
        (tasks, method): [f"{mean(row['jaccard'] for row in ours):.2f}",
                          f"{mean(row['num_shared'] for row in ours):,.1f}",
                          f"{mean(row['expected'] for row in ours):,.1f}"]
        for tasks, methods in found.items() for method, ours in methods.items()
    }  # fmt: skip


def method_tables(overlaps: Sequence[Row]) -> list[Table]:
    """How far the circuits of every two methods agree, on the first draw of each task."""
    first: dict[str, str] = {}
    rows: dict[str, list[list[str]]] = {}
    for row in overlaps:
        if row["what"] == "methods" and row["of"] == first.setdefault(row["task"], row["of"]):
            rows.setdefault(row["of"], []).append([
                row["first"], row["second"], f"{row['jaccard']:.2f}", f"{row['num_shared']:,}",
                f"{row['expected']:,.1f}", p_value(row["p_value"]),
            ])  # fmt: skip
    head = ["", "", "Jaccard", "shared", "by chance", "p"]
    note = "p: that random circuits of these sizes share as much (hypergeometric, not corrected)."
    return [Table(head, cells, note, f"What methods share, {draw}", num_names=2) for draw, cells in rows.items()]
