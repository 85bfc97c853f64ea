"""How often the intervals cover the truth, on made-up changes with a known one.

    python benchmarks/intervals.py [--runs N] [--json FILE]

16 seconds of one core. A run is a set of prompts with their completions; its 95 % interval covers the true mean change
or does not. In `luck` prompts differ by their completions' luck alone; in `skew` most prompts hardly change and a few
fall a lot, in `share` a prompt turns from toxic to not (12 %) or back (3 %).
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sparc3_lightning.metrics import Interval
from sparc3_lightning.metrics.bootstrap import bootstrap_means, two_stage_means

NUM_DRAWS = 2000
Shape = tuple[int, int, int]


def uniform(shape: Shape, generator: torch.Generator) -> Tensor:
    """Numbers between 0 and 1."""
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def normal(shape: Shape, generator: torch.Generator) -> Tensor:
    """Numbers around 0 with a spread of 1."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def luck(shape: Shape, generator: torch.Generator) -> Tensor:
    """A completion in ten falls by 1."""
    return -(uniform(shape, generator) < 0.1).double()


def skew(shape: Shape, generator: torch.Generator) -> Tensor:
    """Prompts fall by the sixth power of chance, half of the completions move besides."""
    n, _, runs = shape
    moved = normal(shape, generator) * (uniform(shape, generator) < 0.5)
    return 0.15 * moved - 0.8 * uniform((n, 1, runs), generator) ** 6


def share(shape: Shape, generator: torch.Generator) -> Tensor:
    """Of an indicator."""
    chance = uniform(shape, generator)
    return (chance > 0.97).double() - (chance < 0.12).double()


def mixed(shape: Shape, generator: torch.Generator) -> Tensor:
    """Prompts and completions differ equally, and evenly."""
    n, _, runs = shape
    return 0.2 * normal((n, 1, runs), generator) + 0.2 * normal(shape, generator)


CASES: dict[str, tuple[Callable[[Shape, torch.Generator], Tensor], float]] = {
    "luck": (luck, -0.1), "skew": (skew, -0.8 / 7), "share": (share, -0.09), "mixed": (mixed, 0.0),
}  # fmt: skip
SIZES = [("luck", 93, 4), ("luck", 93, 25), ("mixed", 93, 4), ("skew", 20, 4), ("skew", 93, 1), ("skew", 93, 4),
         ("share", 93, 1), ("share", 200, 1)]  # fmt: skip


def covered(intervals: list[Interval | None], truth: float) -> float:
    """Share of the intervals that hold the truth; one that is not defined holds nothing."""
    return sum(found is not None and found.low <= truth <= found.high for found in intervals) / len(intervals)


def width(intervals: list[Interval]) -> float:
    """Mean width."""
    return sum(found.high - found.low for found in intervals) / len(intervals)


def measured(case: str, num_prompts: int, num_completions: int, runs: int) -> dict[str, Any]:
    """A row of the table. Runs share the draws of prompts, and have their own changes."""
    make, truth = CASES[case]
    changes = make((num_prompts, num_completions, runs), torch.Generator().manual_seed(0))
    one = bootstrap_means(changes.mean(dim=1), NUM_DRAWS)
    row = {
        "case": case,
        "prompts": num_prompts,
        "completions": num_completions,
        "percentile": covered([found.percentile() for found in one], truth),
        "BCa": covered([found.bca() for found in one], truth),
    }
    if num_completions == 1:
        return {**row, "two stages": None, "width": None}
    two = [found.percentile() for found in two_stage_means(changes, NUM_DRAWS)]
    wider = width(two) / width([found.percentile() for found in one])
    return {**row, "two stages": covered([*two], truth), "width": wider}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measured(*size, options.runs) for size in SIZES]
    table = Table(*rows[0], title="Coverage of 95 % intervals; width: two stages / percentile")
    for row in rows:
        cells = (f"{value:.3f}" if isinstance(value, float) else str(value or "-") for value in row.values())
        table.add_row(*cells)
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
