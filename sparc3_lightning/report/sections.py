"""Kinds of experiments beside suppression: where a run keeps one, and the section that shows it everywhere.

A new kind is an entry in `KINDS`: `inspect`, `report` and the page then know it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparc3_lightning.files import read_json
from sparc3_lightning.report.circuit_tables import as_now, circuit_details, circuit_lines, circuit_tables
from sparc3_lightning.report.rows import Table
from sparc3_lightning.report.trial_tables import (
    cells_table,
    compression_lines,
    compression_tables,
    models_table,
    sweep_lines,
    sweep_tables,
)
from sparc3_lightning.trials.table import AT_PRICE_FILE, TABLE_FILE, read_table

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


@dataclass(frozen=True)
class Kind:
    """A kind of experiment with a directory of its own in a run's.

    Attributes:
        read: What its directory holds, as JSON values.
        section: What is shown of that.
        captions: What its figures show, by how their names begin, in the page's order; of two that fit the longer.
        file: What it writes last: without it there is nothing to read.
    """

    read: Callable[[Path], Data]
    section: Callable[[Data], Section]
    captions: Mapping[str, str]
    file: str = TABLE_FILE


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


KINDS: dict[str, Kind] = {
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
"""By the name of their directory."""


def experiments_in(run_dir: Path) -> dict[str, Path]:
    """The experiments that a run directory holds, each with its own directory."""
    return {name: run_dir / name for name, kind in KINDS.items() if (run_dir / name / kind.file).is_file()}


def experiment_at(path: Path) -> tuple[str, Path] | None:
    """The experiment whose directory, or a file right in it, lies at a path; None where there is none."""
    directory = path if path.is_dir() else path.parent
    name = directory.resolve().name
    if name not in KINDS or not (path.is_file() or (path / KINDS[name].file).is_file()):
        return None
    return name, directory


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
            f"{directory / KINDS[name].file} is no table of a {name}: {type(error).__name__} ({error})."
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
