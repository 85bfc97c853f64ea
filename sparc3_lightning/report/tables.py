"""Reports as tables that fit 80 columns, in a terminal or in a pipe."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sparc3_lightning.pruning.describe import describe_option
from sparc3_lightning.report.facts import set_table
from sparc3_lightning.report.inspection import is_differential
from sparc3_lightning.report.summary import print_changes, print_checks, print_places, print_verdict

_BAR = 30


def print_report(report: dict[str, Any], console: Console | None = None) -> None:
    """Print what `inspect_path` found."""
    # Names come from files: no markup, no emoji.
    console = console or Console(markup=False, emoji=False, highlight=False)
    {"run": _print_run, "recipe": _print_recipe, "scores": _print_scores}[report["kind"]](report, console)


def _print_run(report: dict[str, Any], console: Console) -> None:
    results, recipe = report["results"], report["recipe"]
    _section(console, "Run", [("directory", report["path"]), *_base_model(results["base_model"])])
    print_verdict(results["verdict"], console)
    print_changes(results, console)
    print_checks(results, console)
    sets = set_table(results["validation"])
    columns = ["reference set", "role", "samples", "tokens", "relevance", "modules"]
    _table(
        console,
        "Reference sets (tokens, and relevance in logits, of a sample)",
        columns,
        [row[:6] for row in sets.rows],
    )
    if recipe is not None:
        _print_recipe(recipe, console)
    print_places(Path(report["path"]), console)


def _print_recipe(report: dict[str, Any], console: Console) -> None:
    base = report["base_model"]
    of_model = f" of {base['num_layers']}" if base.get("num_layers") else ""
    title = f"Recipe: {report['num_neurons']} neurons in {len(report['layers'])}{of_model} layers"
    _section(console, title, [("file", report["path"]), *_base_model(base)])
    _section(console, "Options", [(name, describe_option(value)) for name, value in report["options"].items()])
    largest = max(row["count"] for row in report["layers"])
    bars = [(row["layer"], row["count"], "#" * -(-row["count"] * _BAR // largest)) for row in report["layers"]]
    _table(console, "Neurons per layer", ["layer", "count", ""], bars)
    _print_neurons(console, report["top_neurons"], "First neurons (most negative score first)")


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
    _table(console, "Modules (share: of the sum of absolute scores)", columns, rows, close=has_negative)
    if report["top_neurons"]:
        order = {"differential": "most negative first", "ranking": "lowest first"}.get(str(kind), "highest first")
        _print_neurons(console, report["top_neurons"], f"Top neurons ({order})")


def _base_model(base: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("base model", str(base.get("id", "unknown")))]
    rows += [("revision", str(base["revision"]))] if base.get("revision") else []
    rows += [("weight hash", str(base["weight_hash"])[:16])] if base.get("weight_hash") else []
    return rows


def _manifest_rows(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    rows = _base_model(manifest.get("base_model", {}))
    rows += [(name, describe_option(value)) for name, value in manifest.get("options", {}).items()]
    rows += [(name, describe_option(value)) for name, value in manifest.get("inputs", {}).items()]
    data = manifest.get("data", {})
    rows += [(key, f"{data[key]:,}") for key in ("num_samples", "num_tokens") if key in data]
    rows += [("token hash", str(data["token_hash"])[:16])] if "token_hash" in data else []
    rows += [(f"source.{key}", describe_option(value)) for key, value in _source(data) if value is not None]
    rows += [("left out", ", ".join(manifest["left_out"]))] if manifest.get("left_out") else []
    return rows


def _source(data: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    source = data.get("source") or {}
    return source.items() if isinstance(source, dict) else [("name", source)]


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
    return [*rows, (name, f"{checks['total']:.6g}" + (" logits" if is_relevance else ""))]


def _number(column: str, value: float) -> str:
    if column == "count":
        return str(value)
    return f"{value:.1%}" if column == "share" else f"{value:.3g}"


def _print_neurons(console: Console, neurons: Sequence[dict[str, Any]], title: str) -> None:
    rows = [(row["layer"], row["index"], "" if row["score"] is None else f"{row['score']:.6g}") for row in neurons]
    _table(console, title, ["layer", "index", "score"], rows)


def _section(console: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(f"  {name.replace('_', ' ')}", value)
    console.print(title, style="bold")
    console.print(table)
    console.print()


def _table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], close: bool = False
) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0 if close else (0, 1))
    for column in columns:
        is_text = column in ("module", "reference set", "role", "")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    console.print(title, style="bold")
    console.print(table)
    console.print()
