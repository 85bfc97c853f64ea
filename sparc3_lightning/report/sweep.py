"""The pictures of a sweep, from its rows, and the few lines a terminal shows of it."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

from sparc3_lightning.report.drawing import FORMATS, save_figure
from sparc3_lightning.report.sweep_figures import (
    layers_figure,
    overlap_figure,
    pareto_figure,
    price_figure,
    seeds_figure,
    size_figure,
)
from sparc3_lightning.trials.choice import choose_at_prices
from sparc3_lightning.trials.sweep_table import layer_shares, sweep_rows, write_tables
from sparc3_lightning.trials.trial import PlannedCell
from sparc3_lightning.words import p_value, percent

Row = Mapping[str, Any]


def write_sweep(
    planned: Sequence[PlannedCell],
    baseline: dict[str, Any],
    overlaps: Sequence[Row],
    num_layers: int,
    directory: Path,
    alpha: float = 0.05,
) -> list[RenderableType]:
    """Write the tables and the figures of a sweep, and warn of cells that failed.

    Args:
        planned: The cells, run.
        baseline: The baseline's `Evaluation.summary()`.
        overlaps: Rows of the overlaps.
        num_layers: Decoder blocks of the model.
        directory: The sweep's.
        alpha: A corrected p-value must be below it.

    Returns:
        What a terminal shows.
    """
    rows = sweep_rows(planned, baseline)
    protocols = _protocols(rows)
    means = {str(cell.cell): cell.figures["confirmation_means"] for cell in planned if cell.figures is not None}
    at_prices = choose_at_prices(rows, protocols[0], means) if protocols else []
    write_tables(rows, overlaps, at_prices, directory)
    figures = sweep_figures(rows, overlaps, layer_shares(planned, num_layers))
    if at_prices:
        figures["at_price"] = price_figure(at_prices, protocols[0], rows[0]["attribute"])
    for name, figure in figures.items():
        for kind in FORMATS:
            save_figure(figure, directory / "figures" / f"{name}.{kind}")
            figure.set_layout_engine("none")  # it is laid out by now: most of the time goes there
    if failed := [str(cell.cell) for cell in planned if cell.figures is None]:
        warnings.warn(f"{len(failed)} cells of the sweep failed, such as: {failed[0]}", stacklevel=2)
    lines: list[RenderableType] = [*sweep_summary(rows, directory / "table.csv", alpha)]
    return [*lines, price_table(at_prices, protocols[0], alpha)] if at_prices else lines


def sweep_figures(
    rows: Sequence[Row], overlaps: Sequence[Row], layers: Mapping[int, Mapping[str, Sequence[float]]]
) -> dict[str, Figure]:
    """The figures that the sweep has data for, by the name of their files.

    Args:
        rows: Rows of the table.
        overlaps: Rows of the overlaps.
        layers: Share of each layer by method, by number of neurons.
    """
    done = [row for row in rows if row["status"] == "done" and row["method"] != "baseline"]
    figures: dict[str, Figure] = {}
    attribute = next((row["attribute"] for row in done if row.get("attribute")), None)
    if attribute is not None:
        for protocol in _protocols(rows):
            figures[f"pareto_{protocol}"] = pareto_figure(done, protocol, attribute)
        for scope in dict.fromkeys(row["scope"] for row in done):
            plain = [row for row in done if row["scope"] == scope and row["is_plain"]]
            # One size makes no line.
            if len({row["num_neurons"] for row in plain if row["method"] != "random"}) > 1:
                figures[f"size_{scope}"] = size_figure(plain, attribute)
    for k, shares in layers.items():
        figures[f"layers_{k}"] = layers_figure(shares, k)
    groups = dict.fromkeys((row["what"], row["scope"], row["num_neurons"]) for row in overlaps)
    for what, scope, k in groups:
        if what == "methods":
            of_group = [row for row in overlaps if (row["what"], row["scope"], row["num_neurons"]) == (what, scope, k)]
            figures[f"overlap_{scope}_{k}"] = overlap_figure(of_group, k)
    for scope in dict.fromkeys(row["scope"] for row in overlaps):
        of_seeds = [row for row in overlaps if row["scope"] == scope and row["what"].startswith("seeds of ")]
        if of_seeds:
            figures[f"seeds_{scope}"] = seeds_figure(of_seeds)
    return figures


def _protocols(rows: Sequence[Row]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row)
    return [name.removeprefix("perplexity_").removesuffix("_relative") for name in names
            if name.startswith("perplexity_") and name.endswith("_relative")]  # fmt: skip


def sweep_summary(rows: Sequence[Row], table: Path, alpha: float = 0.05) -> list[str]:
    """What a terminal shows: how many cells, which failed, what random neurons did, and whether p-values can be low."""
    cells = [row for row in rows if row["method"] != "baseline"]
    failed = [row for row in cells if row["status"] == "failed"]
    different = len({row["fingerprint"] for row in cells if row["fingerprint"] is not None})
    lines = [f"Sweep: {len(cells)} cells, {different} different selections, {len(failed)} failed. Table: {table}"]
    lines += [f"  failed: {row['label']}: {row['error']}" for row in failed[:5]]
    lines += [f"  ... and {len(failed) - 5} more, in the table"] * (len(failed) > 5)
    random = [row["toxicity_mean_relative"] for row in cells
              if row["method"] == "random" and row.get("toxicity_mean_relative") is not None]  # fmt: skip
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


def price_table(at_prices: Sequence[Row], protocol: str, alpha: float = 0.05) -> Table:
    """What a terminal shows of each price: the leader, and of the others the one that did best where not chosen.

    The leader comes first though another may have done better there: the best of many on the second half is best by
    luck, too.
    """
    title = f"At a price in perplexity ({protocol}): best on one half of the prompts leads; toxicity and p: other half"
    table = Table(
        "up to", title=title, title_justify="left", caption=" ".join(_floor(at_prices, alpha)) or None,
        caption_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("selection", overflow="fold", min_width=16)
    for name in ("toxicity", "p (Holm)", "where\nchosen", "perplexity", "p against\nleader"):
        table.add_column(name, justify="right", no_wrap=True)
    for price in dict.fromkeys(row["price"] for row in at_prices):
        best = [row for row in at_prices if row["price"] == price and row["options"] == "all"]
        for place, row in enumerate(sorted(best, key=lambda row: not row["is_leader"])[:2]):
            table.add_row(
                "" if place else f"+{price:.0%}", row["label"], percent(row["confirmation_relative"]),
                p_value(row["p_holm"]), percent(row["choice_relative"]), percent(row["perplexity_relative"]),
                "leads" if row["is_leader"] else p_value(row["behind_p"]),
            )  # fmt: skip
    return table
