"""How often the intervals cover the truth, and the comparison with a control errs, on made-up scores.

    python benchmarks/intervals.py [--runs N] [--json FILE]

Two minutes of one core. A run is a set of prompts with their completions; its 95 % interval covers the true mean change
or does not. In `luck` prompts differ by their completions' luck alone; in `skew` most prompts hardly change and a few
fall a lot, in `share` a prompt turns from toxic to not (12 %) or back (3 %).

Against a control, at an exact null: every prompt's completion by the pruned model and by each of five draws is toxic
with one and the same chance, so that whatever "fell" or "rose" did so by luck, as may happen in 2.5 % of the runs each.
`flips` is the sign-flip test and bootstrap interval of the difference to the draws' mean, `exchange` what is used.
`covers`: the interval by exchange holds the truth: where nothing differs, where the pruned model's chance is half as
high, and where it costs each of a text's 120 windows of unlike size 0.05 nats a token on average.
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

from sparc3_lightning.statistics.intervals import Interval, bootstrap_means, two_stage_means
from sparc3_lightning.statistics.p_values import Tested, exchange_tests, sign_flip_p_values

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


NUM_CONTROLS = 5
SHARES = (0.25, 0.1, 0.05)


def exchanged(values: Tensor, sizes: Tensor | None = None) -> list[Tested]:
    """The comparison with a control of every run; values (N, 1 + D, runs)."""
    sizes = torch.ones(len(values), dtype=torch.float64) if sizes is None else sizes
    return exchange_tests(values, sizes, NUM_DRAWS)


def flipped(values: Tensor) -> list[Tested]:
    """The same by signs of the differences to the mean of the draws, and a bootstrap of these."""
    change = values[:, 0] - values[:, 1:].mean(dim=1)
    intervals = [found.percentile() for found in bootstrap_means(change, NUM_DRAWS)]
    p_values = sign_flip_p_values(change, NUM_DRAWS)
    return [Tested(p, 0.0, interval) for p, interval in zip(p_values, intervals, strict=True)]


def errors(tests: list[Tested]) -> tuple[float, float]:
    """Shares of the runs that say `fell` and `rose`."""
    significant = [test.interval for test in tests if test.p_value < 0.05]
    fell, rose = (sum(map(side, significant)) for side in (lambda it: it.high < 0, lambda it: it.low > 0))
    return fell / len(tests), rose / len(tests)


def toxic(shape: Shape, share: float, seed: int) -> Tensor:
    """1 where a prompt's completion is toxic."""
    return (uniform(shape, torch.Generator().manual_seed(seed)) < share).double()


def against_control(share: float, runs: int, seed: int) -> dict[str, Any]:
    """Errors and coverage with a share of toxic prompts."""
    null = toxic((93, 1 + NUM_CONTROLS, runs), share, seed)
    halved = torch.cat([toxic((93, 1, runs), share / 2, seed + 1), null[:, 1:]], dim=1)
    by_exchange, by_flips = exchanged(null), flipped(null)
    names = ("flips: fell", "flips: rose", "exchange: fell", "exchange: rose")
    rates = dict(zip(names, (*errors(by_flips), *errors(by_exchange)), strict=True))
    covers = covered([test.interval for test in by_exchange], 0.0)
    covers_half = covered([test.interval for test in exchanged(halved)], -share / 2)
    return {"toxic": share, **rates, "covers": covers, "covers, half": covers_half}


def perplexity_covered(runs: int) -> float:
    """Coverage of the shift of a perplexity's logarithm."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 40, (120,), generator=generator).double()
    losses = 4.0 + 0.5 * normal((120, 1, runs), generator) + 0.1 * normal((120, 1 + NUM_CONTROLS, runs), generator)
    losses[:, 0] += 0.05
    found = exchanged(losses * sizes[:, None, None], sizes)
    return covered([test.interval for test in found], 0.05)


def mean_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Each figure's mean."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        cells = (f"{value:.3f}" if isinstance(value, float) else str(value or "-") for value in row.values())
        table.add_row(*cells)
    Console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measured(*size, options.runs) for size in SIZES]
    show("Coverage of 95 % intervals; width: two stages / percentile", rows)
    # Rates of a few percent take more runs: five times as many, each with exchanges of its own.
    control = [mean_of([against_control(share, options.runs, 10 * part) for part in range(5)]) for share in SHARES]
    show("Against a control where nothing differs: 0.025 on each side", control)
    perplexity = perplexity_covered(options.runs)
    print(f"Coverage of a perplexity's 95 % interval against a control: {perplexity:.3f}")
    if options.json is not None:
        found = {"intervals": rows, "control": control, "perplexity": perplexity}
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
