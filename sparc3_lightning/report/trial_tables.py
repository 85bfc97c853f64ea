"""What a sweep's and a compression's rows say, in sentences and tables: the same in the terminal and on the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparc3_lightning.report.rows import Table, in_brackets
from sparc3_lightning.trials import CONTROL
from sparc3_lightning.trials.table import against_of, behaviour_of, prices_of
from sparc3_lightning.wording import MISSING, number, p_value, percent, signed

Row = Mapping[str, Any]
_MAX_FAILED = 5
_ALPHA = 0.05  # of tables of before, which do not say it


def alpha_of(rows: Sequence[Row]) -> float:
    """What a sweep's corrected p-values must be below."""
    return float(rows[0].get("alpha") or _ALPHA)


def sweep_lines(rows: Sequence[Row]) -> list[str]:
    """How many cells, which failed, what random neurons did, and whether p-values can be low."""
    cells = rows[1:]
    failed = [row for row in cells if row["status"] == "failed"]
    different = len({row["fingerprint"] for row in cells if row["fingerprint"] is not None})
    lines = [f"{len(cells)} cells, {different} different selections, {len(failed)} failed."]
    lines += _failures(failed)
    changes = [row.get(f"{behaviour_of(rows)}_relative") for row in cells if row["method"] == CONTROL]
    random = [change for change in changes if change is not None]
    attribute = rows[0].get("attribute")
    if random:
        span = dict.fromkeys(f"{change:+.1%}" for change in (min(random), max(random)))
        lines.append(f"Random neurons change {attribute} by {' to '.join(span)}.")
    return lines + floor_lines(rows, alpha_of(rows))


def _failures(failed: Sequence[Row]) -> list[str]:
    lines = [f"Failed: {row['label']}: {row['error']}" for row in failed[:_MAX_FAILED]]
    more = len(failed) - _MAX_FAILED
    return lines + [f"... and {more} more, in the table."] * (more > 0)


def floor_lines(rows: Sequence[Row], alpha: float) -> list[str]:
    """That a table's corrected p-values cannot be significant, where that is so."""
    least = min((row["p_holm_least"] for row in rows if row.get("p_holm_least") is not None), default=0.0)
    if least < alpha:
        return []
    return [
        f"p (Holm) cannot be below {least:.3f} here, and so never below {alpha:g}: for so many selections so few "
        "prompts have too few sign patterns. Evaluate more prompts, or fewer selections."
    ]


def price_table(at_prices: Sequence[Row], price: str, attribute: str, alpha: float = _ALPHA) -> Table:
    """At each price the leader, and of the others the one that did best where it was not chosen.

    The leader comes first though another may have done better there: the best of many on the second half is best by
    luck, too.
    """
    kind = price.partition("_")[0]
    head = ["up to", "selection", attribute, "p (Holm)", "where chosen", kind, "p against leader"]
    rows = [
        [
            f"+{row['price']:.0%}", row["label"], percent(row["confirmation_relative"]), p_value(row["p_holm"]),
            percent(row["choice_relative"]), percent(row[f"{kind}_relative"]),
            "leads" if row["is_leader"] else p_value(row["behind_p"]),
        ]
        for row in first_at_prices(at_prices)
    ]  # fmt: skip
    note = f"Best on one half of the prompts leads; {attribute} and p: on the other half."
    title = f"At a price in {in_brackets(price)}"
    return Table(head, rows, " ".join([note, *floor_lines(at_prices, alpha)]), title, num_names=2)


def first_at_prices(at_prices: Sequence[Row]) -> list[Row]:
    """At each price the leader, and the best of the others."""
    found: list[Row] = []
    for paid in dict.fromkeys(row["price"] for row in at_prices):
        best = [row for row in at_prices if row["price"] == paid and row["options"] == "all"]
        found += sorted(best, key=lambda row: not row["is_leader"])[:2]
    return found


def cells_table(rows: Sequence[Row]) -> Table:
    """Every cell of a sweep: the behaviour and how it changed, and what that costs."""
    behaviour, prices = behaviour_of(rows), prices_of(rows)
    shown = [row for row in rows if row["status"] == "done"]
    head, cells = ["selection"], [[row["label"]] for row in shown]
    for price in prices:
        head += [in_brackets(price), "change"]
        cells = [[*row, *_figure(one, price)] for row, one in zip(cells, shown, strict=True)]
    if behaviour:
        head += [in_brackets(behaviour), "change", f"{1 - alpha_of(rows):.0%} interval", "p", "p (Holm)"]
        cells = [[*row, *_behaviour_cells(one, behaviour)] for row, one in zip(cells, shown, strict=True)]
    note = "Intervals and p: of the difference to the baseline, paired by prompt." if behaviour else ""
    return Table(head, cells, note, "Every cell")


def _figure(row: Row, name: str) -> list[str]:
    """A figure, and its change relative to the baseline."""
    change = row.get(f"{name}_relative")
    return [number(row.get(name)), MISSING if change is None else percent(change)]


def _behaviour_cells(row: Row, name: str) -> list[str]:
    return [
        *_figure(row, name), _ends(row, name, row.get(name)), _p(row.get(f"{name}_p")), _p(row.get("p_holm"))
    ]  # fmt: skip


def _p(value: float | None) -> str:
    return MISSING if value is None else p_value(value)


def _ends(row: Row, name: str, beside: float | None) -> str:
    low, high = (row.get(f"{name}_{end}") for end in ("low", "high"))
    if low is None or high is None or beside is None:
        return MISSING
    return ", ".join(signed(end, beside) for end in (low, high))


def sweep_tables(rows: Sequence[Row], at_prices: Sequence[Row]) -> list[Table]:
    """What a sweep has found, in brief: none where it had no price, or no behaviour."""
    prices, attribute = prices_of(rows), rows[0].get("attribute")
    if not at_prices or not prices or attribute is None:
        return []
    return [price_table(at_prices, prices[0], attribute, alpha_of(rows))]


def compression_lines(rows: Sequence[Row]) -> list[str]:
    """How many models, and which failed."""
    failed = [row for row in rows if row["status"] == "failed"]
    return [f"{len(rows) - 1} compressed models, {len(failed)} failed.", *_failures(failed)]


def compression_tables(rows: Sequence[Row]) -> list[Table]:
    """Of each price a table, and one of what lies between relevance and the method to beat."""
    tables: list[Table] = []
    for price in prices_of(rows):
        against = against_of(rows, price)
        tables += [_compressed(rows, price, against), *([_differences(rows, price, against)] if against else [])]
    return tables


def _compressed(rows: Sequence[Row], price: str, against: str) -> Table:
    """Prices, a line an amount, a column a method; `*` where the interval against the method to beat leaves out 0."""
    methods = list(dict.fromkeys(row["method"] for row in rows[1:]))
    cells, strong = [], set()
    for line, (amount, found) in enumerate(by_amount(rows).items()):
        figures = {method: row[price] for method, row in found.items() if row.get(price) is not None}
        best = min(figures.values(), default=None)
        strong |= {(line, methods.index(method) + 1) for method, figure in figures.items() if figure == best}
        cells.append([amount, *(_price(found.get(method), price) for method in methods)])
    notes = ["Removed: of each row's weights. Bold: lowest of its line."]
    notes += [f"*: differs from {against}: the difference's interval leaves out 0."] if against else []
    title = f"{in_brackets(price).capitalize()}; baseline {number(rows[0][price])}"
    return Table(["removed", *methods], cells, " ".join(notes), title, strong=frozenset(strong))


def _price(row: Row | None, name: str) -> str:
    if row is None or row.get(name) is None:
        return f"{MISSING} "
    low, high = row.get(f"{name}_against_low"), row.get(f"{name}_against_high")
    differs = low is not None and high is not None and (low > 0 or high < 0)
    return number(row[name]) + ("*" if differs else " ")


def _differences(rows: Sequence[Row], price: str, against: str) -> Table:
    """How far relevance is from the method to beat, with intervals: a line an amount and a column a kind of it."""
    methods = list(dict.fromkeys(row["method"] for row in rows[1:] if row["method"].startswith("lrp")))
    cells = [
        [amount, *(_interval(found.get(method), price) for method in methods)]
        for amount, found in by_amount(rows).items()
    ]
    title = f"{in_brackets(price).capitalize()} against {against}"
    return Table(["removed", *methods], cells, "Difference and its 95 % interval, paired by window.", title)


def _interval(row: Row | None, price: str) -> str:
    name = f"{price}_against"
    if row is None or row.get(name) is None:
        return MISSING
    change, low, high = (signed(row[column], row[price]) for column in (name, f"{name}_low", f"{name}_high"))
    return f"{change} [{low}, {high}]"


def by_amount(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """A compression's models by how much goes, and by method."""
    lines: dict[str, dict[str, Row]] = {}
    for row in rows[1:]:
        lines.setdefault(row["pattern"] or f"{row['sparsity']:.0%}", {})[row["method"]] = row
    return lines


def models_table(rows: Sequence[Row]) -> Table:
    """Every compressed model: what went, and what that costs against the baseline."""
    prices, shown = prices_of(rows), [row for row in rows if row["status"] == "done"]
    head, cells = ["model", "weights removed"], [[row["label"], f"{row['share']:.1%}"] for row in shown]
    for price in prices:
        head += [in_brackets(price), "change", "95 % interval", "p"]
        for row, of_model in zip(cells, shown, strict=True):
            row += [number(of_model.get(price)), *_relative_cells(of_model, f"{price}_relative")]
    return Table(head, cells, "Change: relative to baseline, paired by window of the text.", "Every model")


def _relative_cells(row: Row, name: str) -> list[str]:
    if row.get(name) is None:
        return [MISSING] * 3
    low, high = (row.get(f"{name}_{end}") for end in ("low", "high"))
    ends = MISSING if low is None or high is None else f"{percent(low)}, {percent(high)}"
    return [percent(row[name]), ends, _p(row.get(f"{name}_p"))]
