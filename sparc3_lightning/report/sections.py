"""Kinds of experiments beside suppression: where a run keeps one, and the section that shows it everywhere.

A new kind is an entry in `KINDS`: `inspect`, `report` and the page then know it.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparc3_lightning.files import read_json
from sparc3_lightning.report.behaviour_tables import overlap_table
from sparc3_lightning.report.circuit_tables import as_now, circuit_details, circuit_lines, circuit_tables
from sparc3_lightning.report.recipe_report import recipe_sizes
from sparc3_lightning.report.rows import Table, selected
from sparc3_lightning.report.trial_tables import (
    cells_table,
    compression_lines,
    compression_tables,
    models_table,
    sweep_lines,
    sweep_tables,
)
from sparc3_lightning.runs.unfinished import is_unfinished
from sparc3_lightning.trials import OVERLAP_FILE, RECIPES_DIR
from sparc3_lightning.trials.table import AT_PRICE_FILE, TABLE_FILE, read_table

if TYPE_CHECKING:  # only a page needs pictures
    from sparc3_lightning.report.figures import Picture

RESULTS_FILE = "experiment_results.json"
PAGE_FILE = "report.html"
FIGURES = "figures"
Data = Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """What is shown of an experiment.

    Attributes:
        title: Its heading.
        lines: Sentences to begin with.
        tables: What a terminal shows too.
        details: Tables that the page has folded away.
    """

    title: str
    lines: Sequence[str]
    tables: Sequence[Table]
    details: Sequence[Table] = ()


def _no_pictures(data: Data) -> "Iterable[Picture]":
    return ()


@dataclass(frozen=True)
class Kind:
    """A kind of experiment, with a directory of its own in a run's unless it is of the run itself.

    Attributes:
        read: What its directory holds, as JSON values.
        section: What is shown of that.
        captions: What the figures that it has left show, by how their names begin, in the page's order; of two that fit
            the longer.
        file: What it writes last: without it there is nothing to read.
        pictures: What a page draws of what its directory holds, beside the figures that it has left.
        is_of_run: Whether its file lies in the run's own directory. The results of an evaluation tell it too, and it is
            shown only of a finished run without them.
    """

    read: Callable[[Path], Data]
    section: Callable[[Data], Section]
    captions: Mapping[str, str]
    file: str = TABLE_FILE
    pictures: "Callable[[Data], Iterable[Picture]]" = _no_pictures
    is_of_run: bool = False


def _read_behaviours(run_dir: Path) -> Data:
    overlaps = read_table(run_dir / OVERLAP_FILE)
    named = dict.fromkeys(str(row[end]) for row in overlaps for end in ("first", "second"))
    sizes = recipe_sizes(run_dir / RECIPES_DIR)
    order = dict.fromkeys([name for name in named if name in sizes] + [*sizes])
    recipes = [{"recipe": name, **sizes[name]} for name in order]
    is_evaluated = _has_more(run_dir) or any(run_dir.glob(f"{RECIPES_DIR}/*/pruned_eval.json"))
    return {"recipes": recipes, "overlaps": overlaps, "without_evaluation": not is_evaluated}


def _behaviours(data: Data) -> Section:
    recipes = ", ".join(f"{row['recipe']} ({selected(row)})" for row in data["recipes"])
    lines = [f"Recipes, each in {RECIPES_DIR}/NAME: {recipes}."] if recipes else []
    if data["without_evaluation"]:
        lines.append(
            "The recipes were not evaluated: `sparc3 test --config RUN/config.yaml --model.recipe "
            f"RUN/{RECIPES_DIR}/NAME` measures the model without what one names, by prompts and text of the config."
        )
    return Section("Behaviours", lines, [overlap_table(data["overlaps"])])


def _draw_behaviours(data: Data) -> "Iterable[Picture]":
    from sparc3_lightning.report.overlap_figures import behaviour_pictures

    return behaviour_pictures(data["overlaps"])


def _read_sweep(directory: Path) -> Data:
    at_price = directory / AT_PRICE_FILE
    return {"table": read_table(directory / TABLE_FILE), "at_price": read_table(at_price) if at_price.exists() else []}


def _sweep(data: Data) -> Section:
    rows, at_prices = data["table"], data["at_price"]
    return Section("Sweep", sweep_lines(rows), sweep_tables(rows, at_prices), [cells_table(rows)])


def _read_compression(directory: Path) -> Data:
    return {"table": read_table(directory / TABLE_FILE)}


def _compression(data: Data) -> Section:
    rows = data["table"]
    return Section("Compression", compression_lines(rows), compression_tables(rows), [models_table(rows)])


def _read_circuit(directory: Path) -> Data:
    data = as_now({name: read_table(directory / f"{name}.csv") for name in ("table", "areas", "parts", "overlap")})
    file = directory / "circuit.json"
    about = read_json(file) if file.is_file() else {}
    # Runs of before had less.
    return {**data, "ends": about.get("ends", []), "granularity": about.get("options", {}).get("granularity")}


def _circuit(data: Data) -> Section:
    return Section("Circuits", circuit_lines(data), circuit_tables(data), circuit_details(data))


BEHAVIOURS = "behaviours"
KINDS: dict[str, Kind] = {
    BEHAVIOURS: Kind(_read_behaviours, _behaviours, {}, OVERLAP_FILE, _draw_behaviours, is_of_run=True),
    "sweep": Kind(
        _read_sweep,
        _sweep,
        {
            "at_price": "The best selection of each method at each price: the black mark on prompts that it was not "
            "chosen on, with its interval; the white one on those that it was chosen on.",
            "pareto": "Every selection: what it does to the behaviour, and what it costs. Lower and further left is "
            "better; the line joins those that no other beats in both.",
            "size": "What each method does as more neurons go. The band is what as many random neurons do.",
            "layers": "In which layers each method's neurons are.",
            "overlap": "How many neurons every two methods share.",
            "seeds": "How many neurons two seeds of general samples agree on, by method.",
        },
    ),
    "compression": Kind(
        _read_compression,
        _compression,
        {
            "": "What each method costs as more weights go; N:M stands beside the sparsities.",
            "against": "Each method's price against that of one method at equal sparsity, with its interval.",
        },
    ),
    "circuit": Kind(
        _read_circuit,
        _circuit,
        {
            "faithfulness": "How much of the whole model's logit difference a circuit keeps, by the share that stays: "
            "0 is the empty circuit, 1 the whole model; shown from -1 to 2, what lies outside is counted. A colour "
            "a method, dashes by its sign. Bars: least and largest of the draws; how sure the areas are over samples "
            "stands in the tables.",
            "accuracy": "How often the right token is above the wrong one. Dotted: empty circuit and whole model.",
        },
    ),
}
"""By name: that of their directory, where they have one."""


def experiments_in(run_dir: Path) -> dict[str, Path]:
    """The experiments that a run directory holds beside its results, each with its own directory."""
    homes = {name: run_dir if kind.is_of_run else run_dir / name for name, kind in KINDS.items()}
    found = {name: home for name, home in homes.items() if (home / KINDS[name].file).is_file()}
    has_more = _has_more(run_dir)
    return {name: home for name, home in found.items() if not (KINDS[name].is_of_run and has_more)}


def _has_more(run_dir: Path) -> bool:
    """Whether a run has results of an evaluation, or is not finished and may come to some."""
    return (run_dir / RESULTS_FILE).is_file() or is_unfinished(run_dir)


def experiment_at(path: Path) -> tuple[str, Path] | None:
    """The experiment whose directory, or a file right in it, lies at a path; None where there is none."""
    directory = path if path.is_dir() else path.parent
    home = directory.resolve().name
    for name, kind in KINDS.items():
        is_its = path.name == kind.file if kind.is_of_run else home == name
        if is_its and (path.is_file() or (not kind.is_of_run and (path / kind.file).is_file())):
            return name, directory
    return None


def section_of(name: str, data: Data) -> Section:
    """What is shown of an experiment.

    Args:
        name: Its kind.
        data: What its directory holds; see `read_experiment`.
    """
    return KINDS[name].section(data)


def read_experiment(name: str, directory: Path) -> Data:
    """What an experiment's directory holds, as JSON values.

    Raises:
        FileNotFoundError: It has not come to its end.
        ValueError: A file is damaged or of something else; names it.
    """
    try:
        data = KINDS[name].read(directory)
        section_of(name, data)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{directory / KINDS[name].file} is no table of the {name}: {type(error).__name__} ({error})."
        ) from error
    return data


def figure_files(name: str, directory: Path) -> list[tuple[Path, str]]:
    """The figures that an experiment has left, each with what it shows, in the page's order."""
    begins = KINDS[name].captions
    found: dict[str, list[Path]] = {beginning: [] for beginning in begins}
    for path in sorted((directory / FIGURES).glob("*.svg"), key=_natural):
        if fitting := [one for one in begins if path.stem.startswith(one)]:
            found[max(fitting, key=len)].append(path)
    return [(path, _caption(path, beginning, begins)) for beginning, paths in found.items() for path in paths]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which 16 comes after 4."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.stem)]


def _caption(path: Path, beginning: str, captions: Mapping[str, str]) -> str:
    """What a figure shows, and which of those of its kind it is."""
    which = path.stem.removeprefix(beginning).strip("_").replace("_", " ")
    return captions[beginning] + (f" ({which})" if which else "")
