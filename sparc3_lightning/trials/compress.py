"""Compress, evaluate, restore: one model after the other, each compared with the baseline and with one method."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparc3_lightning.compression.methods import WeightScores
from sparc3_lightning.distributed.ranks import is_raised_by_all
from sparc3_lightning.evaluation.records import PerplexityResult, perplexity_column
from sparc3_lightning.families.layers import weight_of
from sparc3_lightning.pruning.apply import apply_masks
from sparc3_lightning.pruning.masks import Pattern, check_sparsity, num_removed
from sparc3_lightning.statistics.compare import Change, compare_columns
from sparc3_lightning.statistics.signs import PairedTest

Perplexities = dict[str, PerplexityResult]
ProgressBar = Callable[[Iterable[Any], int, str], Iterable[Any]]


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

    def __str__(self) -> str:
        amounts = [] if self.sparsity is None else [f"{self.sparsity:.0%}"]
        return ", ".join([self.method, *amounts, *([] if self.pattern is None else [self.pattern])])


@dataclass
class Compressed:
    """A compressed model's figures.

    Attributes:
        compression: How it was compressed.
        share: Weights removed, of those of the layers compressed.
        perplexity: By protocol; None where it failed.
        error: Why it failed.
    """

    compression: Compression
    share: float
    perplexity: Perplexities | None = None
    error: str | None = None


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


def run_compressions(
    compressions: Sequence[Compression],
    scores: WeightScores,
    evaluate: Callable[[], Perplexities],
    progress: ProgressBar,
) -> Iterator[Compressed]:
    """Compress the model, evaluate it, restore it bit for bit, for each compression. Every rank must call.

    Args:
        compressions: Which.
        scores: Scores of the model's weights.
        evaluate: Perplexity of the model as it is then; an error that all ranks raise together ends that compression,
            any other all of them.
        progress: Bar over the compressions.
    """
    for compression in progress(compressions, len(compressions), "compression"):
        found = Compressed(compression, share_removed(scores.layers, compression.amount))
        try:
            with apply_masks(scores.model, scores.masks(compression.method, compression.amount)):
                found.perplexity = evaluate()
        except Exception as error:  # whatever it is, it must not take the others' hours with it
            if not is_raised_by_all(error):
                raise  # the other ranks wait for this one, and end with it
            found.error = f"{type(error).__name__}: {error}"
        yield found


def check_one_is_done(compressed: Sequence[Compressed]) -> None:
    """Refuse to end well where nothing was found out.

    Raises:
        ValueError: Every compressed model failed; says how the first did.
    """
    if all(one.perplexity is None for one in compressed):
        first = compressed[0]
        raise ValueError(
            f"all {len(compressed)} compressed models failed, the first ({first.compression}) with {first.error}"
        )


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
