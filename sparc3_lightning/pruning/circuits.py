"""What stays of a model: the share of neurons or weights that a method scores highest."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sparc3_lightning.distributed.owners import own_rows
from sparc3_lightning.models.families.layers import weight_of
from sparc3_lightning.pruning.select import rank_neurons
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


def kth_highest(parts: Callable[[], Iterator[Tensor]], k: int) -> tuple[float, int]:
    """The k-th highest of many float32 values that are seen a part at a time, and how many of its equals belong to k.

    Two passes: over the upper 16 bits of each value, and over the lower ones of those that share the upper.

    Args:
        parts: Gives all values, part by part, from the start.
        k: At least 1.
    """
    counts = sum(torch.bincount(_upper(part), minlength=1 << 16) for part in parts())
    assert isinstance(counts, Tensor)
    above, upper = _place(counts, k)
    lower = sum(torch.bincount(_lower(part)[_upper(part) == upper], minlength=1 << 16) for part in parts())
    assert isinstance(lower, Tensor)
    more, low = _place(lower, k - above)
    return _value(upper, low), k - above - more


def _place(counts: Tensor, k: int) -> tuple[int, int]:
    """How many lie above the bin of the k-th highest, and which bin that is."""
    from_top = counts.flip(0).cumsum(0)
    place = int((from_top < k).sum())
    return int(from_top[place - 1]) if place else 0, len(counts) - 1 - place


def _keys(values: Tensor) -> Tensor:
    """Integers in the values' order: a negative float's bits run the other way."""
    bits = (values.float() + 0.0).contiguous().view(torch.int32).flatten().long()  # -0.0 is 0.0
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits) + (1 << 31)


def _upper(values: Tensor) -> Tensor:
    return _keys(values) >> 16


def _lower(values: Tensor) -> Tensor:
    return _keys(values) & 0xFFFF


def _value(upper: int, lower: int) -> float:
    key = (upper << 16) + lower - (1 << 31)
    bits = key if key >= 0 else -key - (1 << 31)
    return float(torch.tensor([bits], dtype=torch.int32).view(torch.float32)[0])


def keep_weights(
    importance: Importance, names: Sequence[str], share: float, scope: Scope
) -> Iterator[tuple[str, Tensor]]:
    """The weights that stay, one layer after the other; scores are read as they are needed.

    Args:
        importance: Of weights.
        names: Layers that compete.
        share: Of the weights that stay, above 0.
        scope: Whether weights compete over all layers, or within their row.

    Shape: (O, I) bool each.
    """
    threshold, equals = -float("inf"), 0
    if scope == "global":
        total = sum(math.prod(importance.scores.shapes[name]) for name in names)
        threshold, equals = kth_highest(lambda: (importance.of(name) for name in names), num_kept(share, total))
    for name in names:
        scores = importance.of(name)
        if scope == "row":
            kept = torch.zeros_like(scores, dtype=torch.bool)
            best = scores.sort(dim=1, stable=True, descending=True).indices[:, : num_kept(share, scores.shape[1])]
            kept.scatter_(1, best, True)
        else:
            kept = (scores > threshold).contiguous()
            ties = (scores == threshold).flatten().nonzero()[:, 0][:equals]
            equals -= len(ties)
            kept.view(-1)[ties] = True
        yield name, kept


def weight_masks(
    importance: Importance, layers: Mapping[str, torch.nn.Module], share: float, scope: Scope
) -> Iterator[tuple[str, Tensor]]:
    """Masks of the weights that go, in this rank's rows; see `keep_weights`.

    Args:
        importance: Of weights.
        layers: Which compete, by name.
        share: Of the weights that stay, above 0.
        scope: Where weights compete.

    Shape: masks (O, I) bool.
    """
    for name, kept in keep_weights(importance, list(layers), share, scope):
        weight, rows = own_rows(weight_of(layers[name]))
        yield name, ~kept[rows].to(weight.device)
