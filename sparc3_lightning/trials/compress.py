"""Compressions: weights removed row by row, each model compared with the baseline and with one method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.files import write_json
from sparc3_lightning.models.families.layers import weight_of
from sparc3_lightning.pruning.masks import Pattern, check_sparsity, num_removed
from sparc3_lightning.pruning.weight_scores import WeightScores
from sparc3_lightning.statistics.compare import Change, compare, share_of
from sparc3_lightning.statistics.p_values import PairedTest
from sparc3_lightning.trials.trial import Intervention, Trial, masked_weights
from sparc3_lightning.version import package_versions

FORMAT_VERSION = 1
RESULTS_FILE = "results.json"
Row = dict[str, Any]


@dataclass(frozen=True)
class Compression:
    """One way to compress a model.

    Attributes:
        method: Key of the method: its name, with `_signed` where its scores are.
        sparsity: Share of each row that goes; null with a pattern.
        pattern: "N:M": of every M consecutive inputs N stay; null with a sparsity.
    """

    method: str
    sparsity: float | None = None
    pattern: str | None = None

    @property
    def amount(self) -> float | Pattern:
        """What goes of each row."""
        if self.pattern is not None:
            return Pattern.parse(self.pattern)
        assert self.sparsity is not None
        return self.sparsity

    def options(self) -> dict[str, Any]:
        """What goes, for the record of a saved model."""
        chosen = {"sparsity": self.sparsity, "pattern": self.pattern}
        return {**{name: value for name, value in chosen.items() if value is not None}, "scope": "row"}

    def __str__(self) -> str:
        amounts = [] if self.sparsity is None else [f"{self.sparsity:.0%}"]
        return ", ".join([self.method, *amounts, *([] if self.pattern is None else [self.pattern])])


@dataclass(kw_only=True)
class Compressed(Trial):
    """A compressed model, and in the end its figures.

    Attributes:
        compression: How it is compressed.
        share: Weights removed, of those of the layers compressed.
        evaluation: Of the text alone; None where it failed.
    """

    compression: Compression
    share: float
    evaluation: Evaluation | None = None

    def __str__(self) -> str:
        return str(self.compression)

    def to_json(self) -> dict[str, Any]:
        """What is known of it, as JSON values."""
        perplexity = None if self.evaluation is None else self.evaluation.to_json()["perplexity"]
        return {"compression": asdict(self.compression), "share": self.share, "perplexity": perplexity,
                "error": self.error}  # fmt: skip


def trial_of(
    compression: Compression, scores: WeightScores, general: Sequence[str], name: Callable[[Intervention], str]
) -> Compressed:
    """The trial of a compression.

    Args:
        compression: What goes.
        scores: Scores of the model's weights.
        general: Hashes of the samples that they are of.
        name: What the trial of an intervention is kept under.
    """
    made_by = {**asdict(compression), "options": scores.options(compression.method), "general": list(general)}
    removed = masked_weights(made_by, partial(scores.masks, compression.method, compression.amount))
    share = share_removed(scores.layers, compression.amount)
    return Compressed(compression=compression, share=share, intervention=removed, name=name(removed))


def plan_compressions(
    keys: Sequence[str], sparsities: Sequence[float], pattern: str | None, save: Compression | None = None
) -> list[Compression]:
    """Every method at every sparsity, and with the pattern where there is one.

    Args:
        keys: Of the methods.
        sparsities: Shares of each row that go.
        pattern: N:M, or None.
        save: The one to save.

    Raises:
        ValueError: A sparsity outside (0, 1), no N:M, neither; or `save` is none of them.
    """
    for sparsity in sparsities:
        check_sparsity(sparsity)
    amounts: list[tuple[float | None, str | None]] = [(float(sparsity), None) for sparsity in sparsities]
    amounts += [(None, str(Pattern.parse(pattern)))] if pattern is not None else []
    planned = [Compression(key, *amount) for amount in dict.fromkeys(amounts) for key in keys]
    if not planned:
        raise ValueError(
            "`sparsities` must hold at least one share where there is no `pattern`, got none. Set "
            "`CompressionCallback.init_args.sparsities`."
        )
    if save is not None and save not in planned:
        raise ValueError(
            f"`save` must be one of what is evaluated, such as '{planned[0]}', got '{save}'. Set "
            "`CompressionCallback.init_args.save` (`method` with `_signed` where its scores are)."
        )
    return planned


def share_removed(layers: Mapping[str, nn.Module], amount: float | Pattern) -> float:
    """Share of all weights of the layers that goes.

    Raises:
        ValueError: Rows that the pattern does not fit, or too short for any weight to go; names the layer.
    """
    shapes = {name: weight_of(layer).shape for name, layer in layers.items()}
    removed = sum(rows * num_removed(length, amount, name) for name, (rows, length) in shapes.items())
    return removed / sum(rows * length for rows, length in shapes.values())


def compression_rows(
    baseline: Evaluation, compressed: Sequence[Compressed], against: str, test: PairedTest
) -> list[Row]:
    """One row a model, failed ones too, and the baseline's before them.

    Args:
        baseline: The model as it is, by the same text; what else was measured of it is left out.
        compressed: The compressed models.
        against: Key of the method that the others are compared with at equal sparsity; nothing is where it has no row.
        test: Settings of the statistics.

    Units: `_relative` and its ends are fractions of the baseline's figure, `_against` a difference of figures.
    """
    reference = {one.compression.amount: one.evaluation for one in compressed if one.compression.method == against}
    rows: list[Row] = [{"label": "baseline", "method": "baseline", "share": 0.0, "status": "done",
                        **{_key(name): baseline.columns[name].figure for name in baseline.price_columns}}]  # fmt: skip
    for one in compressed:
        row: Row = {"label": str(one.compression), **asdict(one.compression), "share": one.share,
                    "status": "failed" if one.evaluation is None else "done", "error": one.error}  # fmt: skip
        if one.evaluation is not None:
            row |= {_key(name): column.figure for name, column in one.evaluation.columns.items()}
            row |= _relative(_changes(baseline, one.evaluation, test))
            beside = None if one.compression.method == against else reference.get(one.compression.amount)
            row |= {} if beside is None else _differences(_changes(beside, one.evaluation, test))
        rows.append(row)
    return rows


def _key(name: str) -> str:
    return name.replace("/", "_")


def _changes(before: Evaluation, after: Evaluation, test: PairedTest) -> dict[str, Change]:
    return compare({name: before.columns[name] for name in after.columns}, after.columns, test)


def _relative(changes: Mapping[str, Change]) -> Row:
    row: Row = {}
    for name, change in changes.items():
        low, high = (share_of(change.before, end) for end in (change.interval.low, change.interval.high))
        stem = f"{_key(name)}_relative"
        row |= {stem: change.relative, f"{stem}_low": low, f"{stem}_high": high, f"{stem}_p": change.p_value}
    return row


def _differences(changes: Mapping[str, Change]) -> Row:
    row: Row = {}
    for name, change in changes.items():
        stem, interval = f"{_key(name)}_against", change.interval
        row |= {stem: change.change, f"{stem}_low": interval.low, f"{stem}_high": interval.high,
                f"{stem}_p": change.p_value}  # fmt: skip
    return row


def write_results(
    directory: Path, described: Mapping[str, Any], baseline: Evaluation, compressed: Sequence[Compressed]
) -> None:
    """Write `results.json`: every figure with the values of its windows, from which all else can be computed.

    Args:
        directory: The compression's.
        described: What was compressed and by what.
        baseline: The model as it is.
        compressed: The compressed models so far.
    """
    content = {
        "format_version": FORMAT_VERSION,
        **described,
        "baseline": baseline.to_json()["perplexity"],
        "compressed": [one.to_json() for one in compressed],
        "versions": package_versions(),
    }
    write_json(directory / RESULTS_FILE, content)
