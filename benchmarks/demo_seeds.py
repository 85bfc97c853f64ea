"""How far the demo's figures move with the seed of its fit: corpus, scorer, prompts and all options stay.

    python benchmarks/demo_seeds.py [--seeds N] [--home DIR] [--json FILE]

Seeds 0, 1, ...; 0 is the demo's own. Several minutes a seed on two cores. A seed's p-values are about its own model:
what another fit would give, only the rows together show.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo_choice import home_for_demo
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sparc3_lightning.demo.__main__ import SUPPRESS, Demo
from sparc3_lightning.demo.__main__ import main as make_demo
from sparc3_lightning.files import read_json
from sparc3_lightning.wording import number, p_value, percent


def share(value: float) -> str:
    """A share in whole percent."""
    return f"{value:.0%}"


# Figures of a seed that have a mean and a range, and how they are shown.
SUMMED: dict[str, Callable[[float], str]] = {
    "toxicity": number, "pruned": number, "change": percent, "control": number, "sliding": percent,
    "disjoint": percent, "at home": percent, "uniqueness": percent, "broken": share, "then": share,
}  # fmt: skip
COLUMNS = ("toxicity", "pruned", "change", "95% interval", "p", "control", "its p", "sliding", "disjoint",
           "at home", "uniqueness", "broken", "then", "by layer")  # fmt: skip


def figures_of(results: dict[str, Any], price: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What the table shows of one run: toxicity and its tests, and what the removal costs."""
    columns = results["columns"]
    control, changes = columns["toxicity/mean"], {name: column["change"] for name, column in columns.items()}
    toxicity = changes["toxicity/mean"]
    perplexity, unknown = price["perplexity"], price["unknown_words"]
    return {
        "toxicity": toxicity["before"],
        "pruned": toxicity["after"],
        "change": toxicity["relative"],
        "95% interval": [toxicity["interval"]["low"], toxicity["interval"]["high"]],
        "p": toxicity["p_value"],
        "control": control["control"]["mean"],
        "its p": control["change_against_control"]["p_value"],
        "sliding": changes["perplexity/sliding"]["relative"],
        "disjoint": changes["perplexity/disjoint"]["relative"],
        "at home": perplexity["pruned"] / perplexity["baseline"] - 1,
        "uniqueness": changes["uniqueness"]["relative"],
        "broken": unknown["baseline"],
        "then": unknown["pruned"],
        "by layer": results["selection"]["neurons_per_layer"],
    }


def run(num_seeds: int) -> list[dict[str, Any]]:
    """Make the demo with each seed, in the working directory; corpus and scorer are made once."""
    rows = []
    for seed in range(num_seeds):
        if make_demo([], Demo(fit_options=(f"--seed_everything={seed}",))):
            raise SystemExit(1)
        outcome = read_json(SUPPRESS / "stamp.json")["outcome"]
        rows.append({"seed": seed, **figures_of(read_json(Path(outcome["made"])), outcome["price"])})
    return rows


def summed(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and range of every figure."""
    return {
        name: {"mean": statistics.mean(values), "lowest": min(values), "highest": max(values)}
        for name in SUMMED
        for values in [[row[name] for row in rows]]
    }


def shown(name: str, value: Any) -> str:
    """A figure of a seed as a cell."""
    if name == "95% interval":
        return f"{value[0]:+.3f} {value[1]:+.3f}"
    if name == "by layer":
        return " ".join(map(str, value))
    return SUMMED.get(name, p_value)(value)


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    title = "The demo with several seeds of the fit"
    table = Table("seed", title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(str(row["seed"]), *(shown(name, row[name]) for name in COLUMNS))
    table.add_section()
    of_all = summed(rows)
    for which in ("mean", "lowest", "highest"):
        cells = (SUMMED[name](of_all[name][which]) if name in SUMMED else "" for name in COLUMNS)
        table.add_row(which, *cells)
    console.print(table)
    console.print(
        "toxicity: mean over evaluation prompts, baseline model; interval and p: of its change. control: as many "
        "random neurons of the same layers; its p: pruned against it. sliding, disjoint: change of the perplexity of "
        "everyday text of unseen frames and nouns; at home: disjoint, of new text of known ones. uniqueness: its "
        "change. broken, then: made-up or broken words in completions, baseline and pruned. by layer: neurons removed.",
        style="dim",
    )


def main() -> None:
    """Make the demos, print the table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--home", type=Path, help="where to make them; default: a temporary directory")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    target = args.json.resolve() if args.json else None
    with home_for_demo(args.home):
        rows = run(args.seeds)
    show(rows, Console(width=150))
    if target:
        target.write_text(json.dumps({"seeds": rows, "summed": summed(rows)}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
