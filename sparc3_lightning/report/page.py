"""The page: everything a run found, with its figures, in one HTML file that needs no network and runs no script."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sparc3_lightning.files import write_text
from sparc3_lightning.report.figures import pictures, save_figure
from sparc3_lightning.report.read import FinishedRun, read_run, scored_prompts
from sparc3_lightning.report.rows import (
    FigureRow,
    Table,
    agreement_lines,
    change_cells,
    change_head,
    checks,
    evidence_table,
    figure_notes,
    figure_rows,
    first_completions,
    removed,
    set_table,
)
from sparc3_lightning.wording import MISSING, number, p_value, visible

_TEMPLATES = Path(__file__).parent
NUM_PROMPTS = 20
PAGE_FILE = "report.html"
FIGURES = "figures"


@dataclass(frozen=True)
class PageFigure:
    """A figure as the page holds it: its SVG file, and what it shows."""

    name: str
    svg: bytes
    caption: str

    @property
    def address(self) -> str:
        """The file itself as an address: an image in a page of its own, in which names cannot clash or scripts run."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode("ascii")


def write_report(run_dir: Path, num_prompts: int = NUM_PROMPTS, run: FinishedRun | None = None) -> Path:
    """Make `figures/` (PNG and SVG) and `report.html` of a finished run.

    What is there already is replaced; the same run gives the same figures and page, byte for byte.

    Args:
        run_dir: The run's directory.
        num_prompts: How many prompts the page shows with their completions.
        run: What was found; default: read from the directory.

    Returns:
        The page.

    Raises:
        FileNotFoundError: It is no run directory, or a file is missing; names it.
        ValueError: A file cannot be read or belongs to another run; names it.
    """
    run = run or read_run(run_dir)
    shown = []
    for picture in pictures(run):
        svg = save_figure(picture.figure, run_dir / FIGURES / picture.name)
        shown.append(PageFigure(picture.name, svg.read_bytes(), picture.caption))
    return write_text(run_dir / PAGE_FILE, render_page(run, shown, num_prompts))


def render_page(run: FinishedRun, figures: Sequence[PageFigure], num_prompts: int = NUM_PROMPTS) -> str:
    """The page as HTML. Every text of a run is escaped, whoever wrote it.

    Args:
        run: What the run has left.
        figures: What to show, in order.
        num_prompts: How many prompts are shown with their completions, spaced evenly over all.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["visible"] = visible
    results, (attribute, prompts) = run.results, scored_prompts(run.baseline)
    return environment.get_template("page.html").render(
        model=results["base_model"].get("id"),
        num_neurons=results["selection"]["num_neurons"],
        verdict=results["verdict"],
        outcome=_outcome(results),
        evidence=evidence_table(results),
        figures=figures,
        selection=[removed(results["selection"]), *checks(results), *agreement_lines(results)],
        validation=set_table(results["validation"]),
        completions=first_completions(run.baseline, run.pruned, num_prompts),
        num_prompts=len(prompts),
        attribute=attribute,
        words=_words(results),
        choices=_choices(results),
        provenance=None if run.provenance is None else _flat(run.provenance),
        config=run.config,
    )


def _outcome(results: dict[str, Any]) -> Table:
    rows, draws = figure_rows(results), results["num_control_draws"]
    head = ["", *change_head(rows), "better"]
    notes = [*figure_notes(rows), "Better: share of the prompts or windows that improved."]
    if draws:
        head += ["control", "control's range", "p against control"]
        notes.append(
            f"Control: {results['selection']['num_neurons']} random neurons of the same layers, mean and range of "
            f"{draws} draw{'s' * (draws > 1)}; p: pruned against the draws, exchanged within each prompt or window."
        )
    return Table(head, [_outcome_row(row, bool(draws)) for row in rows], " ".join(notes))


def _outcome_row(row: FigureRow, has_control: bool) -> list[str]:
    cells = [row.label, *change_cells(row.change), f"{row.change['share_improved']:.0%}"]
    if not has_control:
        return cells
    control, against = row.column["control"], row.column["change_against_control"]
    if control is None or control["mean"] is None:
        return [*cells, *[MISSING] * 3]
    p = MISSING if against is None else p_value(against["p_value"])
    return [*cells, number(control["mean"]), f"{number(control['lowest'])} to {number(control['highest'])}", p]


def _words(results: dict[str, Any]) -> dict[str, list[str]]:
    """Words that became rarer and commoner, each with its counts."""
    return {
        name: [f"{word['word']} ({word['before']} -> {word['after']}, z {word['z']:+.1f})" for word in words]
        for name, words in (results["words"] or {}).items()
    }


def _choices(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Model, method and selection; what the figures show is left out."""
    sections = {"model": "base_model", "relevance": "relevance", "selection": "selection"}
    lines = [line for name, key in sections.items() for line in _flat(results[key], f"{name}: ")]
    return [(name, text) for name, text in lines if not name.endswith("neurons per layer")]


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as lines of a table."""
    lines: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name} / ")
        else:
            text = " ".join(map(str, value)) if isinstance(value, list) else MISSING if value is None else str(value)
            lines.append((prefix + name.replace("_", " "), text or "none"))
    return lines
