"""The summary that a run leaves in the terminal."""

import os
import shlex
from pathlib import Path
from typing import Any

import rich
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sparc3_lightning.report.facts import (
    FigureRow,
    change_cells,
    change_head,
    checks,
    figure_notes,
    figure_rows,
    removed,
)
from sparc3_lightning.words import MISSING, number, p_value

_FILES = {
    "report.html": "all of it on one page, for a browser",
    "experiment_results.json": "every figure, statistic and check",
    "pruned_neurons.json": "the neurons removed (the recipe)",
    "scores": "scores of every reference set",
    "figures": "the figures, as PNG and SVG",
    "baseline_eval.json": "prompts and completions, baseline model",
    "pruned_eval.json": "prompts and completions, pruned model",
    "control_eval.json": "prompts and completions, control",
    "pruned_model": "the pruned model",
    "responses.json": "scores of the responses that prompts were chosen by",
    "config.yaml": "the run's config, with every default",
    "provenance.json": "command, versions, commit, machine",
}


def print_summary(results: dict[str, Any], log_dir: Path, console: Console | None = None) -> None:
    """Print what was found and where it lies.

    Args:
        results: What `experiment_results` gave.
        log_dir: The run's directory.
        console: Where to print; default: the one that Lightning's progress bar uses, so that neither cuts the other.
    """
    console = console or rich.get_console()
    console.print()
    print_changes(results, console)
    print_checks(results, console)
    print_verdict(results["verdict"], console)
    print_places(log_dir, console)


def print_changes(results: dict[str, Any], console: Console) -> None:
    """Print the figures before and after, and the control's beside them."""
    _print_table(console, *_outcome(figure_rows(results), results))


def print_checks(results: dict[str, Any], console: Console) -> None:
    """Print what was removed, and whether the scores can be trusted."""
    console.print(_list("Neurons and scores", [removed(results["selection"]), *checks(results)]))


def print_verdict(verdict: dict[str, Any], console: Console) -> None:
    """Print what the figures show, and what a reader must know before believing it."""
    console.print(_list(verdict["headline"], [*verdict["toxicity"], *verdict["caveats"]]))


def _print_table(console: Console, table: Table, note: str) -> None:
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum > console.width:
        table.padding, table.show_edge = (0, 0, 0, 0), False  # rather closer columns than cut figures
    console.print(table)
    console.print(Padding(Text(note, "dim"), (int(not table.show_edge), 0, 1, 1)))


def _outcome(rows: list[FigureRow], results: dict[str, Any]) -> tuple[Table, str]:
    """All figures in one table: before, after, and what random neurons do."""
    control, selection = results["control"], results["selection"]
    beside = [] if control is None else ["control", "its p"]
    table = _table("Pruned against baseline", [*change_head(rows), *beside])
    for above, row in zip([None, *rows], rows, strict=False):
        cells = [*change_cells(row.change), *([] if control is None else _control_cells(row, control))]
        table.add_row(Text(row.label_below(above)), *cells)
    notes = figure_notes(rows, results)
    if control is not None:
        draws = f"{control['num_draws']} draw{'s' * (control['num_draws'] > 1)}"
        notes.append(
            f"Control: mean of {draws} of {selection['num_neurons']} random neurons of the same layers; its p: pruned "
            "against the draws, exchanged within each prompt or window."
        )
    return table, " ".join(notes)


def _control_cells(row: FigureRow, control: dict[str, Any]) -> list[str]:
    against = row.against_control
    p = MISSING if against is None else p_value(against["p_value"])
    return [number(control["mean"].get(row.figure)), p]


def _table(title: str, columns: list[str]) -> Table:
    table = Table(
        title=Text(title, "bold"), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("")  # where room is short, the names break and the figures do not
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _list(title: str, lines: list[str]) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row(" -", Text(line))
    return Group(Text(title, "bold"), grid, "")


def print_places(log_dir: Path, console: Console) -> None:
    """Print what lies in the run's directory, and how to see it."""
    present = {name: what for name, what in _FILES.items() if (log_dir / name).exists()}
    # Paths are never wrapped: a broken one cannot be copied.
    console.print(Text(f"Written to {log_dir}{os.sep}", "bold"), soft_wrap=True)
    width = max(map(len, present), default=0)
    for name, what in present.items():
        console.print(Text(f"  {name:<{width}}  {what}"), soft_wrap=True)
    command = f"tensorboard --logdir {shlex.quote(str(log_dir))}"
    console.print(Text(f"See it with: {command}"), soft_wrap=True)
