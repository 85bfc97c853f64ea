"""Masks of what goes, from scores: a share of each row, or N:M along the input dimension. No model here."""

import re
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from sparc3_lightning.scoring.weights import lowest, lowest_per_row

_SPARSITIES = "`CompressionCallback.init_args.sparsities`"
_ALL_SPARSITIES = f"{_SPARSITIES} (the model as it is, is always evaluated)"
_PATTERN = "`CompressionCallback.init_args.pattern`"


@dataclass(frozen=True)
class Pattern:
    """N:M sparsity: of every M consecutive inputs of a row N stay.

    Attributes:
        kept: N.
        group: M.
    """

    kept: int
    group: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "N:M".

        Raises:
            ValueError: It is none, or N does not lie between 1 and M - 1.
        """
        found = re.fullmatch(r"(\d+):(\d+)", text)
        if found is None or not 0 < int(found[1]) < int(found[2]):
            raise ValueError(
                f"`pattern` must be N:M with 0 < N < M, such as 2:4 (of every 4 consecutive inputs 2 stay), got "
                f"{text!r}. Set {_PATTERN}."
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.kept}:{self.group}"


def lowest_per_group(scores: Tensor, pattern: Pattern) -> Tensor:
    """The mask of what goes: in each group of M consecutive inputs the M - N lowest; ties go to the lower index.

    Shape: scores (O, I), result (O, I) bool.
    Raises:
        ValueError: I is no multiple of M.
    Source: Mishra et al. 2021, Accelerating Sparse Deep Neural Networks; github locuslab/wanda, lib/prune.py.
    """
    num_removed(scores.shape[1], pattern)
    groups = scores.reshape(scores.numel() // pattern.group, pattern.group)
    return lowest(groups, pattern.group - pattern.kept).reshape(scores.shape)


def mask_of(scores: Tensor, amount: float | Pattern) -> Tensor:
    """The mask of what goes: the lowest share of each row, or the lowest of each group of N:M.

    Shape: scores (O, I), result (O, I) bool.
    """
    return lowest_per_group(scores, amount) if isinstance(amount, Pattern) else lowest_per_row(scores, amount)


def check_sparsity(sparsity: float, option: str = "sparsities", key: str = _ALL_SPARSITIES) -> None:
    """Refuse a sparsity outside (0, 1).

    Args:
        sparsity: Which share goes.
        option: What the message calls it.
        key: Where it is set.

    Raises:
        ValueError: It is.
    """
    if not 0.0 < sparsity < 1.0:
        raise ValueError(f"`{option}` must lie above 0 and below 1, got {sparsity}. Set {key}.")


def num_removed(row_length: int, amount: float | Pattern, layer: str = "scores") -> int:
    """How many weights of each row go.

    Args:
        row_length: Inputs of the layer, I.
        amount: Share of each row, or N:M.
        layer: What the message calls the layer.

    Raises:
        ValueError: Rows that are no multiple of M long, or so short that none of their weights goes.
    """
    if isinstance(amount, Pattern):
        if row_length % amount.group:
            raise ValueError(
                f"`pattern` {amount} needs rows whose length is a multiple of {amount.group}, got {row_length} "
                f"({layer}). Set another {_PATTERN}, or null."
            )
        return row_length // amount.group * (amount.group - amount.kept)
    if (count := int(row_length * amount)) == 0:
        raise ValueError(
            f"`sparsities` of {amount} removes nothing from rows of {row_length} weights ({layer}). Set a larger one "
            f"in {_SPARSITIES}."
        )
    return count
