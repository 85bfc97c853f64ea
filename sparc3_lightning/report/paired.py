"""What `test` has measured of models, each paired with the first: the same prompts, noise and text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sparc3_lightning.files import read_json
from sparc3_lightning.report.rows import HIDDEN
from sparc3_lightning.wording import number, p_value, percent, signed, spoken

if TYPE_CHECKING:  # they load torch
    from sparc3_lightning.evaluation.records import Evaluation
    from sparc3_lightning.runs.results import ChangeResult

Cells = dict[tuple[str, ...], str]
"""A column of a table: what it has under the names of a row."""


def evaluation_files(run_dir: Path) -> list[Path]:
    """The evaluations that a run has left of a model as it is, and of one without its neurons; the run's own last."""
    return [path for name in ("baseline", "pruned") if (path := run_dir / f"{name}_eval.json").is_file()]


def paired_columns(
    runs: Sequence[Sequence[Path]], statistics: Sequence[Mapping[str, Any]] = ()
) -> tuple[list[Cells], str]:
    """Every run's own model against the first evaluation that any of them has left.

    Args:
        runs: The evaluations' files of each; see `evaluation_files`.
        statistics: Settings of each run's `PairedTest`: what it has told of a pair itself is then told again, to the
            last digit.

    Returns:
        A column a run, and what must be known to read them.

    Raises:
        ValueError: A file holds no evaluation; names it.
    """
    place, first = next((place, files[0]) for place, files in enumerate(runs) if files)
    reference, columns, notes = _read(first), list[Cells](), list[str]()
    for files, settings in zip(runs, statistics or [{}] * len(runs), strict=True):
        own = files[-1] if files and files[-1] != first else None
        cells, why_not = ({}, "") if own is None else _against(reference, _read(own), settings)
        columns.append(cells)
        notes += [f"{own}: {why_not}"] if why_not else []
    columns[place] = {(spoken(name), "reference"): cell for name, cell in _figures(reference).items()} | columns[place]
    told = "Change, interval and p: of each against the reference, paired by prompt or window of the text."
    return columns, " ".join([told, *notes])


def change_cells(change: "ChangeResult") -> dict[str, str]:
    """What is told of a change, as in all tables: a difference where there are no shares."""
    before, interval = change["before"], change["interval"]
    relative = signed(change["after"] - before, beside=before) if before < 0 else percent(change["relative"])
    return {
        "change": relative,
        f"{interval['confidence']:.0%} interval": ", ".join(signed(interval[end], before) for end in ("low", "high")),
        "p": p_value(change["p_value"]),
    }


def _read(path: Path) -> "Evaluation":
    from sparc3_lightning.evaluation.records import Evaluation

    try:
        return Evaluation.from_json(read_json(path, "evaluation"))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no evaluation: {type(error).__name__} ({error}).") from error


def _figures(evaluation: "Evaluation") -> dict[str, str]:
    """The figures that tables show, by name."""
    shown = {name: column for name, column in evaluation.columns.items() if column.role not in HIDDEN}
    return {name: number(column.figure) for name, column in shown.items()}


def _against(reference: "Evaluation", own: "Evaluation", settings: Mapping[str, Any]) -> tuple[Cells, str]:
    """A model's figures, with their changes; or, where it was measured otherwise, without, and why."""
    from sparc3_lightning.statistics.compare import Change, compare
    from sparc3_lightning.statistics.p_values import PairedTest

    figures, changes, why_not = _figures(own), dict[str, Change](), ""
    both = [name for name in figures if name in reference.columns]
    try:
        before, after = ({name: one.columns[name] for name in both} for one in (reference, own))
        changes = compare(before, after, PairedTest(**settings))
    except ValueError as error:
        why_not = str(error)
    cells: Cells = {}
    for name, figure in figures.items():
        change = cast("ChangeResult", asdict(changes[name])) if name in changes else None
        told = {"measured": figure} | ({} if change is None else change_cells(change))
        cells |= {(spoken(name), key): cell for key, cell in told.items()}
    return cells, why_not
