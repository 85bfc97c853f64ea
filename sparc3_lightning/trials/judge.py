"""What the table shows of one cell."""

from dataclasses import asdict
from typing import Any

from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.statistics.compare import Change, compare
from sparc3_lightning.statistics.signs import PairedTest
from sparc3_lightning.trials.halves import confirmation_means, half_changes


def figures_of(baseline: Evaluation, cell: Evaluation, test: PairedTest) -> dict[str, Any]:
    """A cell's `summary`, its `changes` against the baseline, and the `halves`: changes on two halves of the prompts.

    `confirmation_means` has the toxicity of each prompt of the second half, which pairs the cell with others.

    Args:
        baseline: The model as it was.
        cell: The same model without the cell's neurons.
        test: Settings of the statistics.
    """
    figures: dict[str, Any] = {
        "summary": cell.summary(),
        "changes": _by_kind(compare(baseline, cell, test)),
        "halves": {},
    }
    figures["confirmation_means"] = [] if cell.toxicity is None else confirmation_means(cell.toxicity)
    if baseline.toxicity is not None and cell.toxicity is not None:
        halves = half_changes(baseline.toxicity, cell.toxicity, test)
        figures["halves"] = {
            half: {name: asdict(change) for name, change in changes.items()} for half, changes in halves.items()
        }
    return figures


def _by_kind(changes: dict[str, Change]) -> dict[str, Any]:
    """As JSON: perplexity by protocol, toxicity by measure and attribute."""
    found: dict[str, Any] = {"perplexity": {}, "toxicity": {}}
    for name, change in changes.items():
        kind, _, measure = name.rpartition("/")
        if kind == "perplexity":
            found[kind][measure] = asdict(change)
        elif kind:
            found["toxicity"].setdefault(measure, {})[kind] = asdict(change)
    return found
