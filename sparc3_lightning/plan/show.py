"""The plan as one table that fits 80 columns."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def amount(num_bytes: float) -> str:
    """Bytes in the unit that reads best."""
    power = 0
    while num_bytes >= 1000 and power < len(_UNITS) - 1:
        num_bytes, power = num_bytes / 1000, power + 1
    return f"{num_bytes:.0f} B" if power == 0 else f"{num_bytes:.3g} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds >= 1e-4 else "< 0.1 ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def print_plan(plan: dict[str, Any], console: Console | None = None) -> None:
    """Print what `estimate` found; warnings go to stderr."""
    console = console or Console(markup=False, emoji=False, highlight=False)
    run, model, gpu = plan["run"], plan["model"], plan["gpu"]
    console.print(
        f"{model['num_parameters']:,} parameters in {run['dtype']}; {run['granularity']} scores of "
        f"{model['num_attributed_layers']} layers: {model['num_scores']:,}"
    )
    machines = f"{run['num_nodes']} x {run['devices']} {gpu['name']}"
    console.print(f"Computed for {machines}, {run['strategy']}; nothing was measured.\n")
    _print(console, ("memory and disk", "", ""), _space(plan))
    _print(console, ("reference set", "samples", "tokens", "time", "a sample, GPU", "sent a sample"), _sets(plan))
    _print(console, ("time goes into", "", ""), _phases(plan))
    console.print(f"Rates of {gpu['name']}: {gpu['source']}.")
    console.print("Not in the time: loading, saving, baselines, evaluation, what a first batch compiles.")
    if any(item["assumed"] for item in plan["sets"]):
        console.print("?: not in the config; --num_prompts and --prompt_tokens say what to plan with.")
    for warning in plan["warnings"]:
        print(f"sparc3: warning: {warning}", file=sys.stderr)


def _print(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()


def _space(plan: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    most = plan["dominated_by"]["memory"]
    yield "each GPU", amount(plan["gpu_bytes_attribution"]), f"of {amount(plan['gpu']['memory_bytes'])}"
    for name, value in plan["gpu_bytes"].items():
        yield f"  {name}", amount(value), "most" if name == most else ""
    if plan["gpu_bytes_evaluation"] is not None:
        yield "each GPU while evaluating", amount(plan["gpu_bytes_evaluation"]), ""
    for name, value in plan["host_bytes"].items():
        yield f"host of the first node, {name}", amount(value), ""
    yield "disk", amount(sum(plan["disk_bytes"].values())), ""
    for name, value in plan["disk_bytes"].items():
        yield f"  {name}", amount(value), ""


def _sets(plan: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for item in plan["sets"]:
        marks = {name: "?" if name in item["assumed"] else "" for name in ("num_samples", "tokens")}
        sent = item["bytes_sent_a_sample"]
        yield (
            item["name"], f"{item['num_samples']}{marks['num_samples']}", f"{item['tokens']}{marks['tokens']}",
            duration(item["seconds"]), duration(item["seconds_a_sample_and_gpu"]), amount(sent) if sent else "",
        )  # fmt: skip
    yield "all", "", "", duration(plan["seconds"]), f"{plan['gpu_hours']:.3g} GPU-h", ""


def _phases(plan: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, value in sorted(plan["seconds_by_phase"].items(), key=lambda item: -item[1]):
        if value:
            yield name, duration(value), "most" if name == plan["dominated_by"]["time"] else ""
