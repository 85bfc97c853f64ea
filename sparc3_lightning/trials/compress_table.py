"""The compressed models as one table, a row each, the baseline first; and all that is known of them as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparc3_lightning.files import write_json
from sparc3_lightning.statistics.compare import Change
from sparc3_lightning.statistics.signs import PairedTest
from sparc3_lightning.trials.compress import Compressed, Perplexities, changes, compare_methods
from sparc3_lightning.version import package_versions

FORMAT_VERSION = 1
RESULTS_FILE = "results.json"
Row = dict[str, Any]


def compression_rows(
    baseline: Perplexities, compressed: Sequence[Compressed], against: str, test: PairedTest
) -> list[Row]:
    """One row a model, failed ones too, and the baseline's before them.

    Args:
        baseline: Perplexities of the model as it is.
        compressed: The compressed models.
        against: Key of the method that the others are compared with at equal sparsity; nothing is where it has no row.
        test: Settings of the statistics.

    Units: `_relative` and its ends are fractions of the baseline's perplexity, `_against` a difference of perplexities.
    """
    rows: list[Row] = [{"label": "baseline", "method": "baseline", "share": 0.0, "status": "done",
                        **_figures(baseline)}]  # fmt: skip
    for one, beside in zip(compressed, compare_methods(compressed, against, test), strict=True):
        row: Row = {"label": str(one.compression), **asdict(one.compression), "share": one.share,
                    "status": "failed" if one.perplexity is None else "done", "error": one.error}  # fmt: skip
        row |= _figures(one.perplexity or {})
        for protocol, change in changes(baseline, one.perplexity, test).items():
            row |= _relative(f"perplexity_{protocol}_relative", change)
        for protocol, change in beside.items():
            row |= _difference(f"perplexity_{protocol}_against", change)
        rows.append(row)
    return rows


def _figures(perplexity: Mapping[str, Any]) -> Row:
    return {f"perplexity_{protocol}": result.perplexity for protocol, result in perplexity.items()}


def _relative(name: str, change: Change) -> Row:
    low, high = change.interval.low / change.before, change.interval.high / change.before
    return {name: change.relative, f"{name}_low": low, f"{name}_high": high, f"{name}_p": change.p_value}


def _difference(name: str, change: Change) -> Row:
    low, high = change.interval.low, change.interval.high
    return {name: change.change, f"{name}_low": low, f"{name}_high": high, f"{name}_p": change.p_value}


def write_results(
    directory: Path, described: Mapping[str, Any], baseline: Perplexities, compressed: Sequence[Compressed]
) -> None:
    """Write `results.json`: every perplexity with the losses of its windows, from which all else can be computed.

    Args:
        directory: The compression's.
        described: What was compressed and by what.
        baseline: Perplexities of the model as it is.
        compressed: The compressed models so far.
    """
    content = {
        "format_version": FORMAT_VERSION,
        **described,
        "baseline": {protocol: asdict(result) for protocol, result in baseline.items()},
        "compressed": [one.to_json() for one in compressed],
        "versions": package_versions(),
    }
    write_json(directory / RESULTS_FILE, content)
