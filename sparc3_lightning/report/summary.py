"""The summary that a run leaves in the terminal."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sparc3_lightning.report.words import spoken

MISSING = "-"
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
    "config.yaml": "the run's config, with every default",
    "provenance.json": "command, versions, commit, machine",
}


@dataclass(frozen=True)
class FigureRow:
    """A figure: its name among an evaluation's scalars, and its changes as `experiment_results` has them."""

    figure: str
    change: dict[str, Any]
    against_control: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """The name in words."""
        return spoken(self.figure)


def print_summary(results: dict[str, Any], log_dir: Path, console: Console | None = None) -> None:
    """Print what was found and where it lies.

    Args:
        results: What `experiment_results` gave.
        log_dir: The run's directory.
        console: Where to print; default: the one that Lightning's progress bar uses, so that neither cuts the other.
    """
    console = console or rich.get_console()
    rows, verdict = figure_rows(results), results["verdict"]
    console.print()
    _print_table(console, *_outcome(rows, results))
    console.print(_list("Neurons and scores", [removed(results["selection"]), *checks(results)]))
    console.print(_list(verdict["headline"], [*verdict["toxicity"], *verdict["caveats"]]))
    _print_places(console, log_dir)


def _print_table(console: Console, table: Table, note: str) -> None:
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum > console.width:
        table.padding = (0, 0, 0, 0)  # rather closer columns than cut figures
    console.print(table)
    console.print(Padding(Text(note, "dim"), (0, 0, 1, 1)))


def figure_rows(results: dict[str, Any]) -> list[FigureRow]:
    """The figures that sum up a run, perplexity first."""
    changes = results["changes"]
    rows = [FigureRow(f"perplexity/{protocol}", change) for protocol, change in changes["perplexity"].items()]
    rows += _toxicity_rows(results)
    return rows + [FigureRow(name, changes[name]) for name in ("uniqueness", "length") if changes[name] is not None]


def _toxicity_rows(results: dict[str, Any]) -> list[FigureRow]:
    """The main attribute; its measures over several completions only where there are several."""
    toxicity, changes = results["baseline"]["toxicity"], results["changes"]["toxicity"]
    if toxicity is None:
        return []
    attribute = next(iter(toxicity["attributes"]))
    several = toxicity["decoding"]["num_completions"] > 1
    measures = ("mean", "expected_maximum", "probability") if several else ("mean",)
    against = {} if results["control"] is None else results["control"]["pruned_against_control"]
    return [
        FigureRow(f"{attribute}/{name}", changes[name][attribute], against.get(name, {}).get(attribute))
        for name in measures
    ]


def _outcome(rows: list[FigureRow], results: dict[str, Any]) -> tuple[Table, str]:
    """All figures in one table: before, after, and what random neurons do."""
    control, selection = results["control"], results["selection"]
    paired = [row.change for row in rows if "interval" in row.change]
    interval = [f"{paired[0]['interval']['confidence']:.0%} interval", "p"] if paired else []
    beside = ["control", "its p"] if control is not None else []
    table = _table("Pruned against baseline", ("baseline", "pruned", "change", *interval, *beside))
    for row in rows:
        change = row.change
        cells = [number(change["before"]), number(change["after"]), percent(change["relative"])]
        cells += paired_cells(change)[:2] if paired else []
        table.add_row(Text(row.label), *cells, *(_control_cells(row, control) if control is not None else ()))
    notes = figure_notes(rows, results)
    if control is not None:
        draws = f"{control['num_draws']} draw{'s' * (control['num_draws'] > 1)}"
        notes.append(
            f"Control: mean of {draws} of {selection['num_neurons']} random neurons of the same layers; its p: pruned "
            "against it, paired by prompt."
        )
    return table, " ".join(notes)


def _control_cells(row: FigureRow, control: dict[str, Any]) -> list[str]:
    against = row.against_control
    p = MISSING if against is None else p_value(against["p_value"])
    return [number(control["mean"].get(row.figure)), p]


def figure_notes(rows: list[FigureRow], results: dict[str, Any]) -> list[str]:
    """What the columns and rows of a table of changes mean, a sentence each; only of those it has."""
    notes = ["Baseline: the model before pruning. Change: relative to baseline."]
    if any("interval" in row.change for row in rows):
        notes.append("Interval and p: of the difference, paired by prompt.")
    if any(row.figure.endswith("/probability") for row in rows):
        threshold = results["baseline"]["toxicity"]["threshold"]
        notes.append("Expected maximum: mean over prompts of the highest completion.")
        notes.append(f"Probability: share of prompts with a completion above {threshold:g}.")
    if any(row.figure == "uniqueness" for row in rows):
        notes.append("Uniqueness: different / all tokens of a completion. Length: tokens of a completion.")
    return notes


def paired_cells(change: dict[str, Any]) -> list[str]:
    """Interval, p-value and share of prompts that improved, of a change that has them."""
    if "interval" not in change:
        return [MISSING] * 3
    low, high = (f"{change['interval'][end]:+.{_digits(change['before'])}f}" for end in ("low", "high"))
    return [f"{low}, {high}", p_value(change["p_value"]), f"{change['share_improved']:.0%}"]


def _table(title: str, columns: tuple[str, ...]) -> Table:
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


def removed(selection: dict[str, Any]) -> str:
    """How many neurons went, and from where."""
    layers = ", ".join(f"{layer}: {count}" for layer, count in enumerate(selection["neurons_per_layer"]) if count)
    total = selection["num_neurons_of_model"]
    share = f" of {total:,} ({selection['num_neurons'] / total:.2%})" if total else ""
    return f"{selection['num_neurons']} neurons removed{share}; in layer: {layers}."


def checks(results: dict[str, Any]) -> list[str]:
    """What the validation table says, in sentences."""
    validation = results["validation"]
    sets = validation["sets"]
    if validation["passed"]:
        expected = max(row["num_modules_expected"] for row in sets.values())
        lines = [f"All {len(sets)} score sets are finite and hold all {expected} layers expected."]
    else:
        lines = [f"CHECK FAILED: {problem}." for problem in validation["problems"]]
    seeds, length = validation["seed_variation"], validation["length_bias"]
    if seeds is not None:
        variation, same = percent(seeds["coefficient_of_variation"], ""), seeds["selection_overlap"]["mean"]
        lines.append(
            f"{seeds['num_seeds']} seeds of general samples: a score varies by {variation} between them; "
            f"{same:.0%} of the neurons that one seed alone would select, another would too "
            f"(by chance {seeds['overlap_by_chance']:.1%})."
        )
    if length["relevance_ratio"] is not None and length["token_ratio"] is not None:
        behaviour = results["selection"]["behaviour"]
        lines.append(
            f"A sample of {behaviour} has {length['relevance_ratio']:.2f} times the relevance of a general one and "
            f"{length['token_ratio']:.2f} times its tokens (length alone can change relevance)."
        )
    return lines


def _print_places(console: Console, log_dir: Path) -> None:
    present = {name: what for name, what in _FILES.items() if (log_dir / name).exists()}
    # Paths are never wrapped: a broken one cannot be copied.
    console.print(Text(f"Written to {log_dir}{os.sep}", "bold"), soft_wrap=True)
    width = max(map(len, present), default=0)
    for name, what in present.items():
        console.print(Text(f"  {name:<{width}}  {what}"), soft_wrap=True)
    command = f"tensorboard --logdir {shlex.quote(str(log_dir))}"
    console.print(Text(f"See it with: {command}"), soft_wrap=True)


def _digits(value: float) -> int:
    """Decimals for a figure of this size: three below 2, where toxicity and uniqueness are; none from 1000."""
    size = abs(value)
    return 3 if size < 2 else 2 if size < 1000 else 0


def number(value: float | None) -> str:
    """A figure, with as many decimals as its size bears; a collapsed model's perplexity as a power of ten."""
    if value is None:
        return MISSING
    return f"{value:.2e}" if abs(value) >= 1e6 else f"{value:,.{_digits(value)}f}"


def percent(value: float | None, sign: str = "+") -> str:
    """A fraction as a percentage; from a hundredfold on as a factor."""
    if value is None:
        return MISSING
    return f"x{value + 1:.1e}" if abs(value) >= 100 else f"{value:{sign},.{0 if abs(value) >= 10 else 1}%}"


def p_value(value: float) -> str:
    """A p-value, which is never 0."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"
