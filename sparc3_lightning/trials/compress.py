"""Compressions: weights removed row by row, each model compared with the baseline and with one method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import nn

from sparc3_lightning.compression.methods import WeightScores
from sparc3_lightning.evaluation.records import PerplexityResult, perplexity_column
from sparc3_lightning.families.layers import weight_of
from sparc3_lightning.pruning.masks import Pattern, check_sparsity, num_removed
from sparc3_lightning.statistics.compare import Change, compare_columns
from sparc3_lightning.statistics.signs import PairedTest
from sparc3_lightning.trials.trial import Intervention, Trial, Weights

Perplexities = dict[str, PerplexityResult]


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
        perplexity: By protocol; None where it failed.
    """

    compression: Compression
    share: float
    perplexity: Perplexities | None = None

    def __str__(self) -> str:
        return str(self.compression)

    def to_json(self) -> dict[str, Any]:
        """What is known of it, as JSON values."""
        figures = {name: asdict(result) for name, result in (self.perplexity or {}).items()}
        return {"compression": asdict(self.compression), "share": self.share,
                "perplexity": None if self.perplexity is None else figures, "error": self.error}  # fmt: skip


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
    removed = Weights(made_by, partial(scores.masks, compression.method, compression.amount))
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


def changes(before: Perplexities | None, after: Perplexities | None, test: PairedTest) -> dict[str, Change]:
    """By protocol, what changed between two models, paired by the text's windows; nothing where one has failed."""
    if before is None or after is None:
        return {}
    old, new = ({name: perplexity_column(side[name]) for name in after} for side in (before, after))
    return compare_columns(old, new, test)


def compare_methods(compressed: Sequence[Compressed], against: str, test: PairedTest) -> list[dict[str, Change]]:
    """Each compressed model against the one that method `against` compressed as much; nothing for its own.

    Args:
        compressed: The models.
        against: Key of the method.
        test: Settings of the statistics.
    """
    reference = {
        (one.compression.sparsity, one.compression.pattern): one.perplexity
        for one in compressed
        if one.compression.method == against
    }
    return [
        {}
        if one.compression.method == against
        else changes(reference.get((one.compression.sparsity, one.compression.pattern)), one.perplexity, test)
        for one in compressed
    ]
