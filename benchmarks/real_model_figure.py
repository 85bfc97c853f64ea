"""The figure of docs/evidence.md: what the neurons of benchmarks/real_model.py do to toxicity, and what that costs.

    python benchmarks/real_model_figure.py OUT.png ALONE.json SCREENED.json

The two files are what `--json` has written of the parts `alone` and `screened`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

TOXICITY, PRICE = "toxicity/mean", "perplexity/disjoint"
OURS, SIZE = "words, signed LRP", 20
LINEAR_TO = 1.0
"""Per cent of perplexity up to which the axis is linear."""
CLOSE = 0.5
"""Points of toxicity below which two labels would lie over each other."""


def points(path: Path) -> dict[str, tuple[int, float, float]]:
    """By a cell's name: how many neurons, and what its perplexity and toxicity change by, in per cent."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return {
        cell["name"]: (len(cell["neurons"]), *(100 * cell["figures"][name]["relative"] for name in (PRICE, TOXICITY)))
        for cell in cells
        if cell["factor"] is None
    }


def draw(alone: dict[str, tuple[int, float, float]], screened: dict[str, tuple[int, float, float]]) -> Figure:
    """Toxicity against perplexity: each method's first neurons, and ours with and without the screen by number."""
    figure = Figure(figsize=(7.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    _curve(axes, [found for name, found in alone.items() if name.startswith(f"{OURS}, k")], "o--", "without the screen")
    ours = [found for name, found in screened.items() if name.startswith(f"{OURS}, screened")]
    _curve(axes, ours, "o-", "with the screen")
    others = [(toxicity, price, name) for name, (num, price, toxicity) in alone.items()
              if num == SIZE and not name.startswith(OURS + ",")]  # fmt: skip
    above = 0.0
    for toxicity, price, name in sorted(others, reverse=True):
        axes.plot(price, toxicity, "s", color="0.55", markersize=5)
        is_close = above - toxicity < CLOSE and price > LINEAR_TO  # there the labels are
        place, side = ((-6, 4), "right") if is_close else ((6, 3), "left")
        axes.annotate(name.removesuffix(f", k {SIZE}"), (price, toxicity), place, textcoords="offset points", ha=side,
                      fontsize=7, color="0.35")  # fmt: skip
        above = toxicity
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xscale("symlog", linthresh=LINEAR_TO)
    axes.set_xlim(-2, 1000)
    axes.xaxis.set_major_formatter("{x:+g}")
    axes.set_xlabel(f"perplexity: change (%; logarithmic beyond {LINEAR_TO:g})")
    axes.set_ylabel("toxicity by scorer B: change (%)")
    axes.set_title(f"Lines: our first neurons by number. Squares: {SIZE} neurons of other rules, no screen", fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _curve(axes: Axes, found: list[tuple[int, float, float]], style: str, label: str) -> None:
    nums, prices, toxicities = zip(*sorted(found), strict=True)
    axes.plot(prices, toxicities, style, color="black", markersize=4, linewidth=1, label=f"words, signed LRP, {label}")
    for num, price, toxicity in zip(nums, prices, toxicities, strict=True):
        axes.annotate(str(num), (price, toxicity), (-3, -11), textcoords="offset points", fontsize=7)


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT.png")
    parser.add_argument("alone", type=Path, metavar="ALONE.json")
    parser.add_argument("screened", type=Path, metavar="SCREENED.json")
    args = parser.parse_args()
    draw(points(args.alone), points(args.screened)).savefig(args.output, dpi=150)


if __name__ == "__main__":
    main()
