"""The page: everything a run found, in one HTML file that needs no network and runs no script."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sparc3_lightning.report.evidence import agreement_lines, evidence_table
from sparc3_lightning.report.facts import (
    FigureRow,
    Table,
    change_cells,
    change_head,
    checks,
    figure_notes,
    figure_rows,
    removed,
    set_table,
)
from sparc3_lightning.report.run_files import RunFiles
from sparc3_lightning.words import MISSING, number, p_value, spaced, visible

_TEMPLATES = Path(__file__).parent
NUM_PROMPTS = 20


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


def render_page(run: RunFiles, figures: Sequence[PageFigure], num_prompts: int = NUM_PROMPTS) -> str:
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
    results = run.results
    return environment.get_template("page.html").render(
        model=results["base_model"].get("id"),
        num_neurons=results["selection"]["num_neurons"],
        verdict=results["verdict"],
        outcome=_outcome(results),
        evidence=evidence_table(results),
        figures=figures,
        selection=[removed(results["selection"]), *checks(results), *agreement_lines(results)],
        validation=set_table(results["validation"]),
        completions=_completions(run, num_prompts),
        num_prompts=0 if run.attribute is None else len(run.baseline["toxicity"]["prompts"]),
        attribute=run.attribute,
        words=_words(results),
        choices=_choices(results),
        provenance=None if run.provenance is None else _flat(run.provenance),
        config=run.config,
    )


def _outcome(results: dict[str, Any]) -> Table:
    rows, control = figure_rows(results), results["control"]
    head = ["", *change_head(rows), "better"]
    notes = [*figure_notes(rows, results), "Better: share of the prompts or windows that improved."]
    if control is not None:
        draws = control["num_draws"]
        head += ["control", "control's range", "p against control"]
        notes.append(
            f"Control: {results['selection']['num_neurons']} random neurons of the same layers, mean and range of "
            f"{draws} draw{'s' * (draws > 1)}; p: pruned against the draws, exchanged within each prompt or window."
        )
    return Table(head, [_outcome_row(row, control) for row in rows], " ".join(notes))


def _outcome_row(row: FigureRow, control: dict[str, Any] | None) -> list[str]:
    cells = [row.label, *change_cells(row.change), f"{row.change['share_improved']:.0%}"]
    if control is None:
        return cells
    if row.figure not in control["mean"]:
        return [*cells, *[MISSING] * 3]
    lowest, highest = (number(control[key][row.figure]) for key in ("lowest", "highest"))
    p = MISSING if row.against_control is None else p_value(row.against_control["p_value"])
    return [*cells, number(control["mean"][row.figure]), f"{lowest} to {highest}", p]


def _completions(run: RunFiles, num_prompts: int) -> list[dict[str, Any]]:
    """The first completion of some prompts, before and after."""
    if run.attribute is None:
        return []
    before, after = run.baseline["toxicity"]["prompts"], run.pruned["toxicity"]["prompts"]
    sides = (("baseline", before), ("pruned", after))
    return [
        {
            "prompt": before[place]["text"],
            "sides": [_side(name, rows[place], run.attribute) for name, rows in sides],
        }
        for place in spaced(len(before), num_prompts)
    ]


def _side(name: str, row: dict[str, Any], attribute: str) -> dict[str, Any]:
    first = row["completions"][0]
    return {"name": name, "score": f"{first['scores'][attribute]:.3f}", "text": first["text"]}


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
