"""What a terminal or a pipe gets: a run's summary, `sparc3 inspect`, an experiment's section."""

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sparc3_lightning.pruning.recipe import describe_option
from sparc3_lightning.report.behaviour_tables import overlap_table, recipe_table
from sparc3_lightning.report.rows import Table as Rows
from sparc3_lightning.report.rows import checks, outcome_table, prediction_table, removed, set_table, what_went
from sparc3_lightning.report.score_report import is_differential
from sparc3_lightning.report.sections import BEHAVIOURS, KINDS, PAGE_FILE, Data, read_experiment, section_of
from sparc3_lightning.report.weight_tables import weight_tables
from sparc3_lightning.wording import NATS, counted, relevance_unit

if TYPE_CHECKING:  # `inspect` loads no torch
    from sparc3_lightning.runs.results import PredictionsResult, Results
    from sparc3_lightning.trials.verdict import VerdictResult

_BAR = 30
_NAME = 16  # as narrow as a column of names may get
_PLAIN: dict[str, Any] = {"title_justify": "left", "box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
_FILES = {
    PAGE_FILE: "all of it on one page, for a browser",
    "experiment_results.json": "every figure, statistic and check",
    **{name: f"tables and figures of the {name}" for name, kind in KINDS.items() if not kind.is_of_run},
    "pruned_neurons.json": "the neurons removed (the recipe)",
    "pruned_weights.json": "the weights removed (the recipe), with their indices in the file beside it",
    "recipes": "each recipe of several behaviours, with all that came of it",
    "behaviours.csv": "what each recipe does to every measure",
    "behaviours_overlap.csv": "how far the behaviours agree",
    "screen.csv": "what removing each candidate alone does",
    "screen_methods.csv": "which method's scores predict it",
    "scores": "scores of every reference set",
    "figures": "the figures, as PNG and SVG",
    "baseline_eval.json": "prompts and completions, baseline model",
    "pruned_eval.json": "prompts and completions, pruned model",
    "control_eval.json": "prompts and completions, control",
    "trials": "every model that was measured, so that a killed run goes on after it",
    "pruned_model": "the pruned model",
    "responses.json": "scores of the responses that prompts were chosen by",
    "config.yaml": "the run's config, with every default",
    "provenance.json": "command, versions, commit, machine",
}


def print_summary(results: "Results", log_dir: Path, console: Console | None = None) -> None:
    """Print what was found and where it lies.

    Args:
        results: What `experiment_results` gave.
        log_dir: The run's directory.
        console: Where to print; default: the one that Lightning's progress bar uses, so that neither cuts the other.
    """
    console = console or rich.get_console()
    console.print()
    if (behaviours := results.get("behaviours")) is not None:
        print_rows(recipe_table(behaviours["recipes"]), console)
        console.print(Text(f"The first recipe, {results['selection']['recipe']}:", "bold"))
    _print_outcome(results, console)
    _print_checks(results, console)
    _print_verdict(results["verdict"], console)
    print_places(log_dir, console)


def print_predictions(found: "PredictionsResult", console: Console | None = None) -> None:
    """Print which method's scores predict what a screen has measured."""
    _print_table("Does relevance predict removal?", prediction_table(found), console or rich.get_console())


def print_overlaps(overlaps: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print how far several behaviours agree on their neurons, or weights."""
    print_rows(overlap_table(overlaps), console or rich.get_console())


def _print_outcome(results: "Results", console: Console) -> None:
    """All figures in one table, before and after, and the control's beside them."""
    _print_table("Pruned against baseline", outcome_table(results, brief=True), console)


def _print_table(title: str, content: Rows, console: Console) -> None:
    table = Table(title=Text(title, "bold"), **_PLAIN)
    table.add_column("")  # where room is short, the names break and the figures do not
    for column in content.head[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    for name, *cells in content.rows:
        table.add_row(Text(name), *cells)
    if _full_width(table, console) > console.width:
        table.padding, table.show_edge = (0, 0, 0, 0), False  # rather closer columns than cut figures
    console.print(table)
    console.print(Padding(Text(content.note, "dim"), (int(not table.show_edge), 0, 1, 1)))


def _full_width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _print_checks(results: "Results", console: Console) -> None:
    """What was removed, and whether the scores can be trusted."""
    title = f"{what_went(results['selection']).capitalize()} and scores"
    console.print(_list(title, [removed(results["selection"]), *checks(results)]))


def _print_verdict(verdict: "VerdictResult", console: Console) -> None:
    """What the figures show, and what a reader must know before believing it."""
    console.print(_list(verdict["headline"], [*verdict["behaviour"], *verdict["caveats"]]))


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
    # A recipe of several has none of its own.
    if next(log_dir.rglob("events.out.tfevents*"), None):
        command = f"tensorboard --logdir {shlex.quote(str(log_dir))}"
        console.print(Text(f"See it with: {command}"), soft_wrap=True)


def print_report(report: dict[str, Any], console: Console | None = None) -> None:
    """Print what `inspect_path` found."""
    # Names come from files: no markup, no emoji.
    console = console or Console(markup=False, emoji=False, highlight=False)
    shown = {
        "run": _print_run,
        "recipe": _print_recipe,
        "recipe of weights": _print_weight_recipe,
        "scores": _print_scores,
        "compressed model": _print_compressed,
    }
    shown.get(report["kind"], _print_experiment)(report, console)


def _print_run(report: dict[str, Any], console: Console) -> None:
    if report["results"] is None:
        _section(console, "Run", [("directory", report["path"])])
    else:
        _print_suppression(report, console)
    recipe = [] if report["recipe"] is None else [report["recipe"]]
    of_run = [found for found in report["experiments"] if found["kind"] == BEHAVIOURS]
    others = [found for found in report["experiments"] if found["kind"] != BEHAVIOURS]
    for found in (*of_run, *recipe, *others):
        print_report(found, console)
    console.print()
    print_places(Path(report["path"]), console)


def _print_experiment(report: dict[str, Any], console: Console) -> None:
    _print_section(report["kind"], report, Path(report["path"]), console)


def _print_compressed(report: dict[str, Any], console: Console) -> None:
    base, options = report["base_model"], report["options"]
    title = f"Compressed model: {report['share']:.1%} of the weights of its linear layers removed"
    _section(console, title, [("file", report["path"]), *_base_model(base)])
    _section(console, "Options", [(name, describe_option(value)) for name, value in options.items()])


def _print_suppression(report: dict[str, Any], console: Console) -> None:
    results = report["results"]
    _section(console, "Run", [("directory", report["path"]), *_base_model(results["base_model"])])
    if (behaviours := results.get("behaviours")) is not None:
        print_rows(recipe_table(behaviours["recipes"]), console)
        print_overlaps(behaviours["overlaps"], console)
    _print_verdict(results["verdict"], console)
    _print_outcome(results, console)
    _print_checks(results, console)
    if (predictions := results.get("predictions")) is not None:  # runs of before had none
        print_predictions(predictions, console)
    title = f"Reference sets (tokens, and relevance in {relevance_unit(results['relevance'])}, of a sample)"
    sets = set_table(results["validation"])
    columns = ["reference set", "role", "samples", "tokens", "relevance", "modules"]
    _columns(console, title, columns, [row[:6] for row in sets.rows])


def _print_recipe(report: dict[str, Any], console: Console) -> None:
    base = report["base_model"]
    of_model = f" of {base['num_layers']}" if base.get("num_layers") else ""
    dampened = f", {report['num_dampened']} of them dampened," if report["num_dampened"] else ""
    title = f"Recipe: {report['num_neurons']} neurons{dampened} in {len(report['layers'])}{of_model} layers"
    _section(console, title, [("file", report["path"]), *_base_model(base)])
    _section(console, "Options", [(name, describe_option(value)) for name, value in report["options"].items()])
    largest = max(row["count"] for row in report["layers"])
    bars = [(row["layer"], row["count"], "#" * -(-row["count"] * _BAR // largest)) for row in report["layers"]]
    _columns(console, "Neurons per layer", ["layer", "count", ""], bars)
    with_measured = any("value" in row for row in report["top_neurons"])
    unit = report["options"].get("screen", {}).get("unit", NATS)
    order = f"highest value first; in {unit}, price in nats" if with_measured else "most negative score first"
    columns = ["factor"] * (report["num_dampened"] > 0) + ["effect", "price", "value"] * with_measured
    _print_neurons(console, report["top_neurons"], f"First neurons ({order})", columns)


def _print_weight_recipe(report: dict[str, Any], console: Console) -> None:
    num, total, options = report["num_weights"], report["num_weights_scored"], report["options"]
    title = f"Recipe: {counted(num, 'weights')} of {total:,} ({100 * num / total:.2g} %)"
    _section(console, title, [("file", report["path"]), *_base_model(report["base_model"])])
    _section(console, "Options", [(name, describe_option(value)) for name, value in options.items()])
    for table in weight_tables(report["parts"]):
        print_rows(table, console)
    if report["top_rows"]:
        unit = options.get("screen", {}).get("unit", NATS)
        names = ["module", "row", "score", "effect", "price", "value"]
        rows = [
            [row["module"], row["row"], *(_short(row.get(name)) for name in names[2:])] for row in report["top_rows"]
        ]
        _columns(console, f"First rows (highest value first; in {unit}, price in nats)", names, rows)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _print_scores(report: dict[str, Any], console: Console) -> None:
    manifest, checks = report["manifest"], report["checks"]
    has_negative = checks["num_negative"] > 0
    kind = manifest.get("kind")
    name = kind if is_differential(manifest) else manifest.get("data", {}).get("name", Path(report["path"]).name)
    _section(console, f"Scores: {name}", [("directory", report["path"]), *_manifest_rows(manifest)])
    _section(console, "Checks", _check_rows(checks, manifest))
    columns = ["module", "count", "mean", *(["min"] if has_negative else []), "max", "share"]
    rows = [[row["module"], *(_number(column, row[column]) for column in columns[1:])] for row in report["modules"]]
    # With one column more, the longest names of an 8B model fill 80 columns.
    _columns(console, "Modules (share: of the sum of absolute scores)", columns, rows, close=has_negative)
    if report["top_neurons"]:
        order = {"differential": "most negative first", "ranking": "lowest first"}.get(str(kind), "highest first")
        _print_neurons(console, report["top_neurons"], f"Top neurons ({order})")


def _base_model(base: dict[str, Any]) -> list[tuple[str, str]]:
    known = {"base model": base.get("id", "unknown"), "revision": base.get("revision")}
    known["weight hash"] = (base.get("weight_hash") or "")[:16]
    return [(name, str(value)) for name, value in known.items() if value or name == "base model"]


def _manifest_rows(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    rows = _base_model(manifest.get("base_model", {}))
    given = [*manifest.get("options", {}).items(), *manifest.get("inputs", {}).items()]
    rows += [(name, describe_option(value)) for name, value in given]
    data = manifest.get("data", {})
    rows += [(key, f"{data[key]:,}") for key in ("num_samples", "num_tokens") if key in data]
    rows += [("token hash", str(data["token_hash"])[:16])] if "token_hash" in data else []
    source = data.get("source") or {}
    known = source if isinstance(source, dict) else {"name": source}
    rows += [(f"source.{key}", describe_option(value)) for key, value in known.items() if value is not None]
    rows += [("left out", ", ".join(manifest["left_out"]))] if manifest.get("left_out") else []
    return rows


def _check_rows(checks: dict[str, Any], manifest: dict[str, Any]) -> list[tuple[str, str]]:
    of_model = checks["layers_of_model"]
    layers = f"{checks['layers_with_neuron_scores']}" + (f" of {of_model}" if of_model else "")
    rows = [
        ("sha256", "as written" if checks["num_files"] == 1 else f"as written, {checks['num_files']} files"),
        ("NaN / Inf / negative", f"{checks['num_nan']} / {checks['num_inf']} / {checks['num_negative']:,}"),
        ("modules, scores", f"{checks['num_modules']}, {checks['num_scores']:,}"),
        ("layers with neurons", layers),
    ]
    is_relevance = "variant" in manifest.get("options", {"variant": "unknown"})
    name = "relevance per sample" if is_relevance and not is_differential(manifest) else "sum of scores"
    unit = f" {relevance_unit(manifest.get('options', {}))}" if is_relevance else ""
    return [*rows, (name, f"{checks['total']:.6g}{unit}")]


def _number(column: str, value: float) -> str:
    if column == "count":
        return str(value)
    return f"{value:.1%}" if column == "share" else f"{value:.3g}"


def _print_neurons(console: Console, neurons: Sequence[dict[str, Any]], title: str, more: Sequence[str] = ()) -> None:
    def cell(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}g}"

    rows = [
        (row["layer"], row["index"], cell(row["score"], 6), *(cell(row.get(name), 3) for name in more))
        for row in neurons
    ]
    _columns(console, title, ["layer", "index", "score", *more], rows)


def _section(console: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(f"  {name.replace('_', ' ')}", value)
    console.print(title, style="bold")
    console.print(table)
    console.print()


def _columns(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], close: bool = False
) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0 if close else (0, 1))
    for column in columns:
        is_text = column in ("module", "reference set", "role", "")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    console.print(title, style="bold")
    console.print(table)
    console.print()


def print_experiment(name: str, directory: Path, console: Console | None = None) -> None:
    """Print what an experiment has left in its directory, and where all of it lies.

    Args:
        name: Its kind, one of `sections.KINDS`.
        directory: The experiment's.
        console: Where to print; default: the one that Lightning's progress bar uses.
    """
    console = console or rich.get_console()
    console.print()
    _print_section(name, read_experiment(name, directory), directory, console)


def _print_section(name: str, data: Data, directory: Path, console: Console) -> None:
    section = section_of(name, data)
    console.print(_list(section.title, list(section.lines)))
    for table in section.tables:
        print_rows(table, console)
    if KINDS[name].is_of_run:
        return
    console.print(Text(f"All tables and figures: {directory}"), soft_wrap=True)
    if (page := directory.parent / PAGE_FILE).exists():
        console.print(Text(f"On a page: {page}"), soft_wrap=True)


def print_rows(content: Rows, console: Console) -> None:
    """Print a table of any kind under its title: names fold where room is short, and no figure is ever cut."""
    table = Table(**_PLAIN)
    _add_columns(table, content)
    above: Sequence[str] = [""]
    for line, row in enumerate(content.rows):
        is_same = content.num_names > 1 and row[0] == above[0]
        shown = ["", *row[1:]] if is_same else row  # what names several lines is said once
        table.add_row(*(Text(cell, "bold" if (line, at) in content.strong else "") for at, cell in enumerate(shown)))
        above = row
    if (needed := _full_width(table, console) - _fold_names(table, content)) > console.width:
        table.width = needed  # rather lines that are too long than figures that are cut
    console.print(Text(content.title, "bold"))
    console.print(table, crop=False)
    if content.note:
        console.print(Padding(Text(content.note, "dim"), (0, 0, 0, 1)))
    console.print()


def _add_columns(table: Table, content: Rows) -> None:
    """Columns are narrow and their names long: the words of one stand above each other, all upon one line."""
    stacked = [name.split("/") if "/" in name else re.split("[ _]+", name) for name in content.head]
    height = max(map(len, stacked), default=0)
    for place, words in enumerate(stacked):
        is_name = place < content.num_names
        lines = [" ".join(words)] if is_name else words
        head = Text("\n".join([""] * (height - len(lines)) + lines))
        table.add_column(head, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")


def _fold_names(table: Table, content: Rows) -> int:
    """Let the columns of names get narrow, though no word of a name is broken; returns how much they can give."""
    given = 0
    columns = list(zip(content.head, *content.rows, strict=True))[: content.num_names]
    for column, cells in zip(table.columns, columns, strict=False):
        full = max(map(len, cells))
        column.min_width = max([min(_NAME, full), *(len(word) for cell in cells for word in cell.split())])
        given += full - column.min_width
    return given
