"""The page: everything a run found, with its figures, in one HTML file that needs no network and runs no script."""

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from sparc3_lightning.files import write_text
from sparc3_lightning.report.behaviour_tables import overlap_table, recipe_table
from sparc3_lightning.report.figures import Picture, pictures, save_figure
from sparc3_lightning.report.overlap_figures import behaviour_pictures
from sparc3_lightning.report.read import FinishedRun, base_model_of, made_with, read_run
from sparc3_lightning.report.rows import (
    agreement_lines,
    checks,
    evidence_table,
    first_completions,
    of_weights,
    outcome_table,
    prediction_table,
    removed,
    selected,
    set_table,
    what_went,
)
from sparc3_lightning.report.screen_figures import screen_pictures
from sparc3_lightning.report.sections import (
    FIGURES,
    KINDS,
    PAGE_FILE,
    RESULTS_FILE,
    Section,
    experiments_in,
    figure_files,
    read_experiment,
    section_of,
)
from sparc3_lightning.report.weight_tables import weight_tables
from sparc3_lightning.wording import MISSING, relevance_unit, visible

if TYPE_CHECKING:  # `report` loads no torch
    from sparc3_lightning.runs.results import Results

_TEMPLATES = Path(__file__).parent
NUM_PROMPTS = 20
_WIDE = 500  # points


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

    @property
    def is_wide(self) -> bool:
        """Whether it has so many panels that none could be read in a column of the page."""
        size = re.search(rb'<svg[^>]*? width="([\d.]+)pt"', self.svg[:2000])
        return size is not None and float(size[1]) > _WIDE


@dataclass(frozen=True)
class PageSection:
    """An experiment's section as the page holds it: with its figures, and the name that it is reached by."""

    name: str
    section: Section
    figures: Sequence[PageFigure]


def write_report(run_dir: Path, num_prompts: int = NUM_PROMPTS, run: FinishedRun | None = None) -> Path:
    """Make `figures/` (PNG and SVG) and `report.html` of a run: of its suppression and of every further experiment.

    What is there already is replaced; the same run gives the same figures and page, byte for byte. An experiment's own
    figures are shown as it has left them.

    Args:
        run_dir: The run's directory.
        num_prompts: How many prompts the page shows with their completions.
        run: What suppression found; default: read from the directory, where it is there.

    Returns:
        The page.

    Raises:
        FileNotFoundError: It is no run directory, or a file is missing; names it.
        ValueError: A file cannot be read or belongs to another run; names it.
    """
    found = experiments_in(run_dir)
    if run is None and ((run_dir / RESULTS_FILE).is_file() or not found):
        run = read_run(run_dir)
    shown = [] if run is None else _draw(_pictures(run), run_dir / FIGURES)
    sections = [_page_section(name, directory) for name, directory in found.items()]
    return write_text(run_dir / PAGE_FILE, render_page(run, shown, num_prompts, sections, run_dir))


def _pictures(run: FinishedRun) -> Iterator[Picture]:
    yield from pictures(run)
    yield from screen_pictures(run.results, run.screened)
    if "behaviours" in run.results:
        yield from behaviour_pictures(run.results["behaviours"]["overlaps"])


def _draw(drawn: Iterable[Picture], directory: Path) -> list[PageFigure]:
    shown = []
    for picture in drawn:
        svg = save_figure(picture.figure, directory / picture.name)
        shown.append(PageFigure(picture.name, svg.read_bytes(), picture.caption))
    return shown


def _page_section(name: str, directory: Path) -> PageSection:
    data = read_experiment(name, directory)
    figures = _draw(KINDS[name].pictures(data), directory / FIGURES)
    figures += [
        PageFigure(f"{name}_{path.stem}", path.read_bytes(), caption) for path, caption in figure_files(name, directory)
    ]
    return PageSection(name, section_of(name, data), figures)


def render_page(
    run: FinishedRun | None,
    figures: Sequence[PageFigure],
    num_prompts: int = NUM_PROMPTS,
    sections: Sequence[PageSection] = (),
    run_dir: Path | None = None,
) -> str:
    """The page as HTML. Every text of a run is escaped, whoever wrote it.

    Args:
        run: What suppression has left; None where the run was for something else.
        figures: What to show of it, in order.
        num_prompts: How many prompts are shown with their completions, spaced evenly over all.
        sections: The run's further experiments.
        run_dir: Where a run without suppression keeps its model's name, provenance and config.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"visible": visible, "breakable": _breakable}
    assert run is not None or run_dir is not None
    content = _of_directory(run_dir, sections) if run is None and run_dir else {}
    content |= {} if run is None else _of_run(run, figures, num_prompts)
    return environment.get_template("page.html").render(
        of_run=run is not None,
        sections=[{"name": one.name, **vars(one.section), "figures": one.figures} for one in sections],
        **content,
    )


def _breakable(name: str) -> Markup:
    """A column's name that may go on in a new line after a dot: `self_attn.q_proj` is too wide for paper."""
    return Markup(re.sub(r"\.(?=[a-z])", ".<wbr>", str(escape(name))))


def _of_directory(run_dir: Path, sections: Sequence[PageSection]) -> dict[str, Any]:
    """What the page says of a run that did not suppress anything."""
    provenance, config = made_with(run_dir)
    return {
        "heading": " and ".join(one.section.title for one in sections) + " of",
        "model": base_model_of(run_dir) or "a model",
        "provenance": None if provenance is None else _flat(provenance),
        "config": config,
    }


def _of_run(run: FinishedRun, figures: Sequence[PageFigure], num_prompts: int) -> dict[str, Any]:
    """What the page says of a suppression."""
    results = run.results
    predictions = results.get("predictions")  # runs of before had none
    behaviours = results.get("behaviours")
    return {
        "heading": f"{_heading(results)} removed from",
        "model": results["base_model"].get("id"),
        "verdict": results["verdict"],
        "behaviours": None if behaviours is None else recipe_table(behaviours["recipes"]),
        "overlaps": None if behaviours is None else overlap_table(behaviours["overlaps"]),
        "recipe": results["selection"].get("recipe"),
        "serves": " and ".join(results["selection"].get("behaviours", [])),
        "outcome": outcome_table(results),
        "evidence": evidence_table(results),
        "figures": figures,
        "selection": [removed(results["selection"]), *checks(results), *agreement_lines(results)],
        "what": what_went(results["selection"]),
        "parts": weight_tables(results["selection"]["parts"]) if of_weights(results["selection"]) else [],
        "validation": set_table(results["validation"], relevance_unit(results["relevance"])),
        "predictions": None if predictions is None else prediction_table(predictions),
        "completions": first_completions(run.baseline, run.pruned, num_prompts),
        "num_prompts": len(run.baseline.prompts),
        "attribute": run.baseline.attribute,
        "words": _words(results),
        "choices": _choices(results),
        "provenance": None if run.provenance is None else _flat(run.provenance),
        "config": run.config,
    }


def _heading(results: "Results") -> str:
    """What was removed; of several behaviours how many recipes, each by itself."""
    if (behaviours := results.get("behaviours")) is None:
        return selected(results["selection"])
    recipes = {row["recipe"] for row in behaviours["recipes"]}
    named = {row[end] for row in behaviours["overlaps"] for end in ("first", "second")}
    return f"{len(recipes)} recipes of {len(named)} behaviours, each"


def _words(results: "Results") -> dict[str, list[str]]:
    """Words that became rarer and commoner, each with its counts."""
    return {
        name: [f"{word['word']} ({word['before']} -> {word['after']}, z {word['z']:+.1f})" for word in words]
        for name, words in (results["words"] or {}).items()
    }


def _choices(results: "Results") -> list[tuple[str, str]]:
    """Model, method and selection; what figures and tables show is left out."""
    sections = {"model": results["base_model"], "relevance": results["relevance"], "selection": results["selection"]}
    lines = [line for name, values in sections.items() for line in _flat(values, f"{name}: ")]
    return [(name, text) for name, text in lines if not name.endswith(("neurons per layer", "selection: parts"))]


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
