"""What a terminal or a pipe gets: a run's summary, `sparc3 inspect`, a sweep and a compression."""

import os
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
from sparc3_lightning.report.read import is_differential
from sparc3_lightning.report.rows import Table as Rows
from sparc3_lightning.report.rows import checks, in_brackets, outcome_table, prediction_table, removed, set_table
from sparc3_lightning.report.side_by_side import overlap_table, recipe_table
from sparc3_lightning.trials import CONTROL
from sparc3_lightning.wording import MISSING, NATS, number, p_value, percent, relevance_unit, signed

if TYPE_CHECKING:  # `inspect` loads no torch
    from sparc3_lightning.runs.results import PredictionsResult, Results
    from sparc3_lightning.trials.verdict import VerdictResult

Row = Mapping[str, Any]
_BAR = 30
_PLAIN: dict[str, Any] = {"title_justify": "left", "box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
_FILES = {
    "report.html": "all of it on one page, for a browser",
    "experiment_results.json": "every figure, statistic and check",
    "pruned_neurons.json": "the neurons removed (the recipe)",
    "recipes": "each recipe of several behaviours, with all that came of it",
    "behaviours.csv": "what each recipe does to every measure",
    "behaviours_overlap.csv": "how far the behaviours share neurons",
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
        _print_wide("Behaviours side by side", recipe_table(behaviours["recipes"]), console)
        console.print(Text(f"The first recipe, {results['selection']['recipe']}:", "bold"))
    _print_outcome(results, console)
    _print_checks(results, console)
    _print_verdict(results["verdict"], console)
    print_places(log_dir, console)


def print_predictions(found: "PredictionsResult", console: Console | None = None) -> None:
    """Print which method's scores predict what a screen has measured."""
    _print_table("Does relevance predict removal?", prediction_table(found), console or rich.get_console())


def print_overlaps(overlaps: Sequence[Row], console: Console | None = None) -> None:
    """Print how far several behaviours agree on their neurons."""
    _print_wide("Do the behaviours share neurons?", overlap_table(overlaps), console or rich.get_console())


def _print_outcome(results: "Results", console: Console) -> None:
    """All figures in one table, before and after, and the control's beside them."""
    _print_table("Pruned against baseline", outcome_table(results, brief=True), console)


def _print_wide(title: str, content: Rows, console: Console) -> None:
    """A table that may be wider than a terminal: rather lines that are too long than figures that are cut."""
    table = Table(title=Text(title, "bold"), **_PLAIN)
    for place, column in enumerate(content.head):
        table.add_column(Text(column.replace(" ", "\n")), justify="right" if place else "left", no_wrap=True)
    for row in content.rows:
        table.add_row(*map(Text, row))
    _print_whole(table, console)
    console.print(Padding(Text(content.note, "dim"), (0, 0, 1, 1)))


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
    console.print(_list("Neurons and scores", [removed(results["selection"]), *checks(results)]))


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
    command = f"tensorboard --logdir {shlex.quote(str(log_dir))}"
    console.print(Text(f"See it with: {command}"), soft_wrap=True)


def print_report(report: dict[str, Any], console: Console | None = None) -> None:
    """Print what `inspect_path` found."""
    # Names come from files: no markup, no emoji.
    console = console or Console(markup=False, emoji=False, highlight=False)
    {"run": _print_run, "recipe": _print_recipe, "scores": _print_scores}[report["kind"]](report, console)


def _print_run(report: dict[str, Any], console: Console) -> None:
    results, recipe = report["results"], report["recipe"]
    _section(console, "Run", [("directory", report["path"]), *_base_model(results["base_model"])])
    if (behaviours := results.get("behaviours")) is not None:
        _print_wide("Behaviours side by side", recipe_table(behaviours["recipes"]), console)
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
    if recipe is not None:
        _print_recipe(recipe, console)
    print_places(Path(report["path"]), console)


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


def sweep_summary(rows: Sequence[Row], behaviour: str, table: Path, alpha: float = 0.05) -> list[str]:
    """What a terminal shows: how many cells, which failed, what random neurons did, and whether p-values can be low."""
    cells = [row for row in rows if row["method"] != "baseline"]
    failed = [row for row in cells if row["status"] == "failed"]
    different = len({row["fingerprint"] for row in cells if row["fingerprint"] is not None})
    lines = [f"Sweep: {len(cells)} cells, {different} different selections, {len(failed)} failed. Table: {table}"]
    lines += [f"  failed: {row['label']}: {row['error']}" for row in failed[:5]]
    lines += [f"  ... and {len(failed) - 5} more, in the table"] * (len(failed) > 5)
    changes = [row.get(f"{behaviour}_relative") for row in cells if row["method"] == CONTROL]
    random = [change for change in changes if change is not None]
    lines += [f"  random neurons: {min(random):+.1%} to {max(random):+.1%}"] if random else []
    return lines + [f"  {line}" for line in _floor(rows, alpha)]


def _floor(rows: Sequence[Row], alpha: float) -> list[str]:
    """That a table's corrected p-values cannot be significant, where that is so."""
    least = min((row["p_holm_least"] for row in rows if row.get("p_holm_least") is not None), default=0.0)
    if least < alpha:
        return []
    return [
        f"p (Holm) cannot be below {least:.3f} here, and so never below {alpha:g}: for so many selections so few "
        "prompts have too few sign patterns. Evaluate more prompts, or fewer selections."
    ]


def price_table(at_prices: Sequence[Row], price: str, attribute: str, alpha: float = 0.05) -> Table:
    """What a terminal shows of each price: the leader, and of the others the one that did best where not chosen.

    The leader comes first though another may have done better there: the best of many on the second half is best by
    luck, too.
    """
    title = f"At a price in {in_brackets(price)}: best on one half of the prompts leads; {attribute} and p: other half"
    kind = price.partition("_")[0]
    note = " ".join(_floor(at_prices, alpha)) or None
    table = Table("up to", title=title, caption=note, caption_justify="left", **_PLAIN)
    table.add_column("selection", overflow="fold", min_width=16)
    for name in (attribute, "p (Holm)", "where\nchosen", kind, "p against\nleader"):
        table.add_column(name, justify="right", no_wrap=True)
    for paid in dict.fromkeys(row["price"] for row in at_prices):
        best = [row for row in at_prices if row["price"] == paid and row["options"] == "all"]
        for place, row in enumerate(sorted(best, key=lambda row: not row["is_leader"])[:2]):
            table.add_row(
                "" if place else f"+{paid:.0%}", row["label"], percent(row["confirmation_relative"]),
                p_value(row["p_holm"]), percent(row["choice_relative"]), percent(row[f"{kind}_relative"]),
                "leads" if row["is_leader"] else p_value(row["behind_p"]),
            )  # fmt: skip
    return table


def print_compression(
    rows: Sequence[Row], prices: Sequence[str], against: str, directory: Path, console: Console | None = None
) -> None:
    """Print a table a price, what failed, and where all of it lies: `directory`.

    Args:
        rows: Rows of the table, the baseline first.
        prices: Its columns that hold a price.
        against: Key of the method that the others are compared with.
        directory: The compression's.
        console: Where to print; default: the one that Lightning's progress bar uses.
    """
    console = console or rich.get_console()
    console.print()
    for price in prices:
        _print_whole(_compressed(rows, price), console)
        if any(row.get(f"{price}_against") is not None for row in rows):
            _print_whole(_differences(rows, price, against), console)
    for row in (row for row in rows if row["status"] == "failed"):
        console.print(Text(f"failed: {row['label']}: {row['error']}"), soft_wrap=True)
    console.print(Text(f"Tables, figures, all intervals: {directory}"), soft_wrap=True)


def _print_whole(table: Table, console: Console) -> None:
    """Rather lines that are too long than figures that are cut."""
    table.width = _full_width(table, console)
    console.print(table, crop=False)
    console.print()


def _compressed(rows: Sequence[Row], name: str) -> Table:
    """Prices, a line an amount, a column a method; `*` where the interval against the method to beat leaves out 0."""
    methods = list(dict.fromkeys(row["method"] for row in rows[1:]))
    table = _empty(f"{in_brackets(name).capitalize()}; baseline {number(rows[0][name])}", methods)
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


def _differences(rows: Sequence[Row], price: str, against: str) -> Table:
    """How far relevance is from the method to beat, with intervals: a line a sparsity and a column a kind of it."""
    methods = list(dict.fromkeys(row["method"] for row in rows[1:] if row["method"].startswith("lrp")))
    table = _empty(f"{in_brackets(price).capitalize()} against {against} [95 % interval, paired by window]", methods)
    for amount, found in _lines(rows).items():
        table.add_row(amount, *(_interval(found.get(method), price) for method in methods))
    table.caption = Text("Bold: lowest of its line. *: the difference's interval leaves out 0.", "dim")
    table.caption_justify = "left"
    return table


def _interval(row: Row | None, price: str) -> str:
    name = f"{price}_against"
    if row is None or row.get(name) is None:
        return MISSING
    change, low, high = (signed(row[column], row[price]) for column in (name, f"{name}_low", f"{name}_high"))
    return f"{change} [{low}, {high}]"


def _lines(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    lines: dict[str, dict[str, Row]] = {}
    for row in rows[1:]:
        lines.setdefault(row["pattern"] or f"{row['sparsity']:.0%}", {})[row["method"]] = row
    return lines


def _empty(title: str, methods: Sequence[str]) -> Table:
    table = Table(title=Text(title, "bold"), min_width=len(title) + 1, **_PLAIN)
    table.add_column("", no_wrap=True)
    for method in methods:
        table.add_column(method.replace("_", "\n"), justify="right", no_wrap=True, vertical="bottom")
    return table
