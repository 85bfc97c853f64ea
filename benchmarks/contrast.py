"""Do the rules of tests/configs/contrast.yaml hold over prompts, seeds, models and scorers they were not chosen on?

    python benchmarks/contrast.py [--json FILE]

Runs on real input: the sweep's own setting with attribution's and evaluation's prompts exchanged and other general
samples and luck, and its prompts once more with yet other samples and luck; both with two scorers (the second of
benchmarks/second_scorer.py, made where it is missing). Minutes a run.
"""

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from second_scorer import DIRECTORY, make_scorer

from sparc3_lightning.main import main as sparc3
from sparc3_lightning.wording import percent

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "tests/configs"
RULES = CONFIGS / "contrast.yaml"
SECOND = CONFIGS / "two_scorers.yaml"
# Part attributed, part evaluated, seed of the first of three general sets, seed of the luck. Six seeds share the
# fixture's 480 documents, so that the two runs have none in common.
REALTEXT = {
    "prompts exchanged": ("evaluation", "attribution", 0, 1),
    "other samples": ("attribution", "evaluation", 3, 2),
}


def realtext_options(attributed: str, evaluated: str, first_seed: int, luck: int) -> list[str]:
    """What differs from tests/configs/realtext.yaml."""
    general = {"seed": range(first_seed, first_seed + 3), "num_seeds": [6] * 3, "num_samples": [64] * 3}
    return [
        *(
            f"--data.general.general_seed{i}.init_args.{key}={values[i]}"
            for key, values in general.items()
            for i in range(3)
        ),
        f"--data.behaviours.toxic.init_args.part={attributed}",
        f"--data.evaluation_prompts.init_args.part={evaluated}",
        f"--model.evaluator.init_args.decoding.seed={luck}",
    ]


def run_rules(*options: str) -> pd.DataFrame:
    """Run the rules after a config, and read what they have found."""
    cli = sparc3(["predict", *options[:2], "--config", str(RULES), *options[2:]])
    return pd.read_csv(cli.model.log_dir / "sweep/table.csv")


def on_realtext() -> Iterator[tuple[str, pd.DataFrame]]:
    """The rules on the real-text model."""
    if not DIRECTORY.exists():
        make_scorer()
    for name, setting in REALTEXT.items():
        logs = f"--trainer.logger.init_args.name=contrast_{name.replace(' ', '_')}"
        config = ("--config", str(CONFIGS / "realtext.yaml"))
        yield f"real text, {name}", run_rules(*config, "--config", str(SECOND), logs, *realtext_options(*setting))


def gathered(runs: dict[str, pd.DataFrame]) -> dict[str, dict[str, dict[str, Any]]]:
    """By rule and run: change of toxicity by the first scorer with its test, by the second, and of perplexity."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for run, table in runs.items():
        for row in table[table["method"] != "baseline"].to_dict("records"):
            second = next((value for name, value in row.items() if name.endswith("/toxicity_mean_relative")), None)
            before = row["toxicity_mean"] - row["toxicity_mean_change"]
            found.setdefault(str(row["label"]), {})[run] = {
                "toxicity": row["toxicity_mean_relative"],
                "interval": [row[f"toxicity_mean_{end}"] / before for end in ("low", "high")],
                "p": row["toxicity_mean_p"],
                "second": second,
                "perplexity": row["perplexity_disjoint_relative"],
            }
    return found


def show(found: dict[str, dict[str, dict[str, Any]]], console: Console) -> None:
    """Print a row a rule, a column a run: toxicity, its second opinion, and perplexity."""
    names = list(next(iter(found.values())))
    table = Table("rule", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, justify="right")
    for rule, runs in found.items():
        table.add_row(rule, *(_cell(runs[name]) for name in names))
    console.print(table)
    console.print(
        "Change of mean toxicity (*: p < 0.05) / by the second scorer / of perplexity (disjoint).", style="dim"
    )


def _cell(figures: dict[str, Any]) -> str:
    second = "" if figures["second"] is None else f" / {percent(figures['second'])}"
    return f"{percent(figures['toxicity'])}{'*' * (figures['p'] < 0.05)}{second} / {percent(figures['perplexity'])}"


def main() -> None:
    """Run, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    target = args.json.resolve() if args.json else None
    with contextlib.chdir(ROOT):
        runs = dict(on_realtext())
    found = gathered(runs)
    show(found, Console(width=190))
    if target:
        target.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
