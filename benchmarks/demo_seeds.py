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
from rich.console import Console
from rich.table import Table

from sparc3_lightning.demo.__main__ import SUPPRESS, Demo
from sparc3_lightning.demo.__main__ import main as make_demo
from sparc3_lightning.files import read_json
from sparc3_lightning.report.summary import number, p_value, percent

# Figures of a seed that have a mean and a range, and how they are shown.
SUMMED: dict[str, Callable[[float], str]] = {
    "baseline": number, "pruned": number, "change": percent, "control": number, "sliding": percent,
    "disjoint": percent, "at home": percent, "uniqueness": percent,
}  # fmt: skip


def figures_of(results: dict[str, Any], known: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What the table shows of one run: toxicity, its tests, and relative changes of perplexity and uniqueness."""
    changes, control = results["changes"], results["control"]
    toxicity = changes["toxicity"]["mean"]["toxicity"]
    return {
        "baseline": toxicity["before"],
        "pruned": toxicity["after"],
        "change": toxicity["relative"],
        "interval": [toxicity["interval"]["low"], toxicity["interval"]["high"]],
        "p": toxicity["p_value"],
        "control": control["mean"]["toxicity/mean"],
        "p_control": control["pruned_against_control"]["mean"]["toxicity"]["p_value"],
        "sliding": changes["perplexity"]["sliding"]["relative"],
        "disjoint": changes["perplexity"]["disjoint"]["relative"],
        "at home": known["pruned"]["disjoint"] / known["baseline"]["disjoint"] - 1,
        "uniqueness": changes["uniqueness"]["relative"],
        "neurons_per_layer": results["selection"]["neurons_per_layer"],
    }


def run(num_seeds: int) -> list[dict[str, Any]]:
    """Make the demo with each seed, in the working directory; corpus and scorer are made once."""
    rows = []
    for seed in range(num_seeds):
        if make_demo([], Demo(fit_options=(f"--seed_everything={seed}",))):
            raise SystemExit(1)
        outcome = read_json(SUPPRESS / "stamp.json")["outcome"]
        rows.append({"seed": seed, **figures_of(read_json(Path(outcome["made"])), outcome["known"])})
    return rows


def summed(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and range of every figure."""
    return {
        name: {"mean": statistics.mean(values), "lowest": min(values), "highest": max(values)}
        for name in SUMMED
        for values in [[row[name] for row in rows]]
    }


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table(title="The demo with several seeds of the fit", title_justify="left")
    heads = ("seed", "toxicity", "pruned", "change", "95% interval", "p", "control", "its p", "perplexity, sliding",
             "disjoint", "at home", "uniqueness", "neurons by layer")  # fmt: skip
    for head in heads:
        table.add_column(head, justify="right")
    for row in rows:
        cells = {name: form(row[name]) for name, form in SUMMED.items()}
        low, high = row["interval"]
        table.add_row(
            str(row["seed"]), cells["baseline"], cells["pruned"], cells["change"], f"{low:+.3f}, {high:+.3f}",
            p_value(row["p"]), cells["control"], p_value(row["p_control"]), cells["sliding"], cells["disjoint"],
            cells["at home"], cells["uniqueness"], " ".join(map(str, row["neurons_per_layer"])),
        )  # fmt: skip
    table.add_section()
    of_all = summed(rows)
    for which in ("mean", "lowest", "highest"):
        cells = {name: form(of_all[name][which]) for name, form in SUMMED.items()}
        table.add_row(
            which, cells["baseline"], cells["pruned"], cells["change"], "", "", cells["control"], "",
            cells["sliding"], cells["disjoint"], cells["at home"], cells["uniqueness"], "",
        )  # fmt: skip
    console.print(table)
    console.print(
        "Toxicity: mean over evaluation prompts, baseline model. Changes: relative to it. Control: as many random "
        "neurons of the same layers. At home: disjoint perplexity of new documents of known frames and nouns."
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
    show(rows, Console(width=130))
    if target:
        target.write_text(json.dumps({"seeds": rows, "summed": summed(rows)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
