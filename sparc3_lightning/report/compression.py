"""What shows a compression: figures, and the tables a terminal has."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sparc3_lightning.report.compression_figures import against_figure, perplexity_figure
from sparc3_lightning.report.drawing import FORMATS, save_figure
from sparc3_lightning.trials.compress_table import protocols_of
from sparc3_lightning.trials.sweep_table import write_table
from sparc3_lightning.words import MISSING, number, signed

Row = Mapping[str, Any]


def write_compression(rows: Sequence[Row], against: str, directory: Path) -> None:
    """Write the table; for each protocol a figure of the perplexities, and one of the methods against `against`.

    Args:
        rows: Rows of the table, the baseline first.
        against: Key of the method that the others are compared with.
        directory: The compression's; figures lie in its `figures/`.
    """
    write_table(rows, directory)
    figures = {}
    for protocol in protocols_of(rows):
        figures[f"perplexity_{protocol}"] = perplexity_figure(rows, protocol)
        beside = against_figure(rows, protocol, against)
        figures |= {} if beside is None else {f"against_{against}_{protocol}": beside}
    for name, figure in figures.items():
        for kind in FORMATS:
            save_figure(figure, directory / "figures" / f"{name}.{kind}")
            figure.set_layout_engine("none")  # it is laid out by now: most of the time goes there


def print_compression(rows: Sequence[Row], against: str, directory: Path, console: Console | None = None) -> None:
    """Print a table a protocol, what failed, and where all of it lies.

    Args:
        rows: Rows of the table, the baseline first.
        against: Key of the method that the others are compared with.
        directory: The compression's.
        console: Where to print; default: the one that Lightning's progress bar uses.
    """
    console = console or rich.get_console()
    console.print()
    for protocol in protocols_of(rows):
        _print_whole(_table(rows, protocol, against), console)
        if any(row.get(f"perplexity_{protocol}_against") is not None for row in rows):
            _print_whole(_differences(rows, protocol, against), console)
    for row in (row for row in rows if row["status"] == "failed"):
        console.print(Text(f"failed: {row['label']}: {row['error']}"), soft_wrap=True)
    console.print(Text(f"Tables, figures, all intervals: {directory}"), soft_wrap=True)


def _print_whole(table: Table, console: Console) -> None:
    """Rather lines that are too long than figures that are cut."""
    table.width = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    console.print(table, crop=False)
    console.print()


def _table(rows: Sequence[Row], protocol: str, against: str) -> Table:
    """Perplexities, a line an amount, a column a method; `*` where the interval against `against` leaves out 0."""
    name = f"perplexity_{protocol}"
    methods = list(dict.fromkeys(row["method"] for row in rows[1:]))
    table = _empty(f"Perplexity ({protocol}); baseline {number(rows[0][name])}", methods)
    for amount, found in _lines(rows).items():
        best = min((row[name] for row in found.values() if row.get(name) is not None), default=None)
        table.add_row(amount, *(_cell(found.get(method), name, best) for method in methods))
    return table


def _cell(row: Row | None, name: str, best: float | None) -> Text:
    if row is None or row.get(name) is None:
        return Text(f"{MISSING} ")
    low, high = row.get(f"{name}_against_low"), row.get(f"{name}_against_high")
    differs = low is not None and high is not None and (low > 0 or high < 0)
    return Text(number(row[name]) + ("*" if differs else " "), "bold" if row[name] == best else "")


def _differences(rows: Sequence[Row], protocol: str, against: str) -> Table:
    """How far relevance is from the method to beat, with intervals: a line a sparsity and a column a kind of it."""
    name = f"perplexity_{protocol}_against"
    methods = list(dict.fromkeys(row["method"] for row in rows[1:] if row["method"].startswith("lrp")))
    table = _empty(f"Perplexity ({protocol}) against {against} [95 % interval, paired by window]", methods)
    for amount, found in _lines(rows).items():
        table.add_row(amount, *(_interval(found.get(method), name, protocol) for method in methods))
    table.caption = Text("Bold: lowest of its line. *: the difference's interval leaves out 0.", "dim")
    table.caption_justify = "left"
    return table


def _interval(row: Row | None, name: str, protocol: str) -> str:
    if row is None or row.get(name) is None:
        return MISSING
    beside = row[f"perplexity_{protocol}"]
    change, low, high = (signed(row[column], beside) for column in (name, f"{name}_low", f"{name}_high"))
    return f"{change} [{low}, {high}]"


def _lines(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    lines: dict[str, dict[str, Row]] = {}
    for row in rows[1:]:
        lines.setdefault(row["pattern"] or f"{row['sparsity']:.0%}", {})[row["method"]] = row
    return lines


def _empty(title: str, methods: Sequence[str]) -> Table:
    table = Table(
        title=Text(title, "bold"), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
        min_width=len(title) + 1,
    )  # fmt: skip
    table.add_column("", no_wrap=True)
    for method in methods:
        table.add_column(method.replace("_", "\n"), justify="right", no_wrap=True, vertical="bottom")
    return table
