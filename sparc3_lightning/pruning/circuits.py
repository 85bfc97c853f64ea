"""What stays of a model: the share of neurons or weights that a method scores highest."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sparc3_lightning.distributed.owners import own_rows
from sparc3_lightning.models.families.layers import weight_of
from sparc3_lightning.pruning.select import rank_neurons
from sparc3_lightning.scoring.lazy import BLOCK
from sparc3_lightning.scoring.score_set import ScoreSet

Order = Literal["highest", "magnitude", "lowest"]
Scope = Literal["global", "row"]
_ORDERS: dict[str, Callable[[Tensor], Tensor]] = {"highest": lambda s: s, "magnitude": torch.abs, "lowest": torch.neg}


@dataclass(frozen=True)
class Importance:
    """What a method says matters, most first.

    Attributes:
        label: What tables and figures call it.
        scores: Its scores of the task's samples.
        order: Whether the "highest" stay, those of the largest "magnitude", or the "lowest".
    """

    label: str
    scores: ScoreSet
    order: Order = "highest"

    def of(self, name: str) -> Tensor:
        """Of a module's scores, so that the highest stay."""
        return _ORDERS[self.order](self.scores.scores[name])


def num_kept(share: float, total: int) -> int:
    """How many of so many stay: at least one where any do."""
    return max(round(share * total), int(share > 0))


def keep_neurons(importance: Importance, share: float) -> dict[int, Tensor]:
    """The neurons that stay, of all layers together; ties go to the lower (layer, index).

    Args:
        importance: Of neurons, or of their rows' weights, which are summed first.
        share: Of all neurons, 0 to 1.

    Shape: by layer, (F,) bool.
    """
    summed = ScoreSet({name: importance.scores.summary(name).rows for name in importance.scores.shapes},
                      importance.scores.manifest)  # fmt: skip
    of = Importance(importance.label, summed, importance.order)
    ordered = ScoreSet({name: of.of(name) for name in summed.shapes}, summed.manifest)
    layers, indices, _ = rank_neurons(ordered, highest_first=True)
    num = num_kept(share, len(layers))
    stays = torch.zeros(int(layers.max()) + 1, int(indices.max()) + 1, dtype=torch.bool)
    stays[layers[:num], indices[:num]] = True
    return dict(enumerate(stays))


def bits_sha256(kept: Mapping[int, Tensor]) -> str:
    """Names what stays: equal for the same neurons, however they were chosen."""
    digest = hashlib.sha256()
    for layer in sorted(kept):
        digest.update(np.packbits(kept[layer].cpu().numpy()).tobytes())
    return digest.hexdigest()


def kth_highest(parts: Callable[[], Iterator[Tensor]], ks: Sequence[int]) -> list[tuple[float, int]]:
    """The k-th highest of many float32 values that are seen a part at a time, and how many of its equals belong to k.

    Two passes, however many are asked for: over the upper 16 bits of each value, and over the lower ones of those whose
    upper ones are some k's. A part may be a whole layer: its keys, each twice as long as a value, are made in blocks.

    Args:
        parts: Gives all values, part by part, from the start.
        ks: Each at least 1.
    """
    counts = torch.zeros(1 << 16, dtype=torch.int64)
    for keys in _keys_in_blocks(parts()):
        counts += torch.bincount(keys >> 16, minlength=1 << 16)
    places = [_place(counts, k) for k in ks]
    wanted = sorted({upper for _, upper in places})
    row_of = torch.full((1 << 16,), -1)
    row_of[wanted] = torch.arange(len(wanted))
    lower = torch.zeros(len(wanted) << 16, dtype=torch.int64)
    for keys in _keys_in_blocks(parts()):
        rows = row_of[keys >> 16]
        near = rows >= 0
        lower += torch.bincount((rows[near] << 16) + (keys[near] & 0xFFFF), minlength=len(lower))
    found = []
    for k, (above, upper) in zip(ks, places, strict=True):
        more, low = _place(lower.view(-1, 1 << 16)[row_of[upper]], k - above)
        found.append((_value(upper, low), k - above - more))
    return found


def _place(counts: Tensor, k: int) -> tuple[int, int]:
    """How many lie above the bin of the k-th highest, and which bin that is."""
    from_top = counts.flip(0).cumsum(0)
    place = int((from_top < k).sum())
    return int(from_top[place - 1]) if place else 0, len(counts) - 1 - place


def _keys_in_blocks(parts: Iterator[Tensor]) -> Iterator[Tensor]:
    for part in parts:
        yield from map(_keys, torch.split(part.flatten(), BLOCK))


def _keys(values: Tensor) -> Tensor:
    """Integers in the values' order: a negative float's bits run the other way."""
    bits = (values.float() + 0.0).contiguous().view(torch.int32).flatten().long()  # -0.0 is 0.0
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits) + (1 << 31)


def _value(upper: int, lower: int) -> float:
    key = (upper << 16) + lower - (1 << 31)
    bits = key if key >= 0 else -key - (1 << 31)
    return float(torch.tensor([bits], dtype=torch.int32).view(torch.float32)[0])


@dataclass(frozen=True)
class Contest:
    """Weights that compete to stay: the same for whatever share of them does.

    Attributes:
        importance: Of weights; scores are read as they are needed.
        names: Layers that compete.
        scope: Whether weights compete over all layers, or within their row.
        shares: Shares that may be asked for, each above 0: what all of them need is found at once, and kept.
    """

    importance: Importance
    names: Sequence[str]
    scope: Scope
    shares: Sequence[float]

    @cached_property
    def _thresholds(self) -> dict[float, tuple[float, int]]:
        """By share, the lowest score that stays, and how many of its equals do."""
        total = sum(math.prod(self.importance.scores.shapes[name]) for name in self.names)
        ks = [num_kept(share, total) for share in self.shares]
        found = kth_highest(lambda: (self.importance.of(name) for name in self.names), ks)
        return dict(zip(self.shares, found, strict=True))

    def share_kept(self, share: float) -> float:
        """The share that really stays: at least one weight does, of a row where these compete within it."""
        shapes = [self.importance.scores.shapes[name] for name in self.names]
        total = sum(map(math.prod, shapes))
        if self.scope == "global":
            return num_kept(share, total) / total
        return sum(num_rows * num_kept(share, width) for num_rows, width in shapes) / total

    def keep(self, share: float) -> Iterator[tuple[str, Tensor]]:
        """The weights that stay, one layer after the other.

        Shape: (O, I) bool each.
        """
        return self._of_rows(share) if self.scope == "row" else self._of_all(share)

    def _of_rows(self, share: float) -> Iterator[tuple[str, Tensor]]:
        for name in self.names:
            scores = self.importance.of(name)
            kept = torch.zeros_like(scores, dtype=torch.bool)
            best = scores.sort(dim=1, stable=True, descending=True).indices[:, : num_kept(share, scores.shape[1])]
            yield name, kept.scatter_(1, best, True)

    def _of_all(self, share: float) -> Iterator[tuple[str, Tensor]]:
        threshold, equals = self._thresholds[share]
        for name in self.names:
            scores = self.importance.of(name)
            kept = (scores > threshold).contiguous()
            ties = (scores == threshold).flatten().nonzero()[:, 0][:equals]
            equals -= len(ties)
            kept.view(-1)[ties] = True
            yield name, kept

    def masks(self, layers: Mapping[str, torch.nn.Module], share: float) -> Iterator[tuple[str, Tensor]]:
        """Masks of the weights that go, in this rank's rows.

        Args:
            layers: Those that compete, by name.
            share: Of the weights that stay, one of `shares`.

        Shape: (O, I) bool each.
        """
        for name, kept in self.keep(share):
            weight, rows = own_rows(weight_of(layers[name]))
            yield name, ~kept[rows].to(weight.device)
