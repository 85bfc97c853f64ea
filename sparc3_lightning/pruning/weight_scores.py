"""What each method scores weights by, and the masks that come of it, one layer at a time."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc3_lightning.data.batches import PADDING, Batch
from sparc3_lightning.distributed.owners import own_rows
from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.families.layers import weight_of
from sparc3_lightning.pruning.masks import Pattern, mask_of
from sparc3_lightning.scoring.loop import forward_pass, see
from sparc3_lightning.scoring.method import Method, Pass, ScoresRows, Scoring
from sparc3_lightning.scoring.registry import METHODS, expand_methods
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.scoring.sequential import SequentialPass, WandaSequential

Batches = Callable[[], Iterable[Batch]]
"""Gives this rank's batches of all general sets, on the model's device, from the start."""
Masks = Iterator[tuple[str, Tensor]]

COMPRESSION_METHODS = tuple(name for name, method in METHODS.items() if method.orders_weights)


def compression_keys(methods: Sequence[str], signs: Sequence[str]) -> list[str]:
    """Keys of the methods: gradient-based ones once a sign.

    Raises:
        ValueError: A method that gives weights no order of their own, an unknown sign, or none.
    """
    if not methods or not set(methods) <= set(COMPRESSION_METHODS):
        raise ValueError(
            f"`methods` must be of {list(COMPRESSION_METHODS)}, got {list(methods)}. Set "
            "`CompressionCallback.init_args.methods`."
        )
    return list(expand_methods(methods, signs, "CompressionCallback"))


def relevance_keys(keys: Sequence[str]) -> list[str]:
    """The keys whose scores are relevance."""
    return [key for key in keys if METHODS[key.removesuffix("_signed")].variant is not None]


def check_scored(
    needed: Sequence[str], scored: Collection[str], granularity: str, layers: Collection[str], expected: Collection[str]
) -> None:
    """Refuse methods whose scores the run will not have.

    Args:
        needed: Keys of the methods whose scores are relevance.
        scored: Keys that the run scores by.
        granularity: What the run keeps scores of.
        layers: Layers that are compressed.
        expected: Layers that the run scores.

    Raises:
        ValueError: A key is not scored; scores of neurons only; or layers without scores.
    """
    if missing := sorted(set(needed) - set(scored)):
        raise ValueError(
            f"compression needs scores of {missing}, got those of {sorted(scored)}. Set `model.sign` and "
            "`model.variant`, or list `callbacks.BaselineCallback` with these `methods` and `signs` before "
            "`callbacks.CompressionCallback`."
        )
    left_out = [name for name in layers if name not in expected]
    if needed and (granularity != "weight" or left_out):
        found = f"granularity {granularity!r} of modules" + (f" that leave out {left_out[0]}" if left_out else "")
        raise ValueError(
            f"compression by {needed[0]} needs a score of every weight of every linear layer but lm_head, got {found}. "
            "Set `model.granularity: weight` and `model.modules: all`."
        )


class WeightScores:
    """Scores of every weight of the blocks' linear layers by several methods; the lowest of each row go.

    Relevance counts by its magnitude: the absolute value of the mean over the samples, not the mean of absolute values,
    where it is signed.

    Args:
        model: A causal language model of a known family, whole, replicated or sharded (FSDP2); the rules are off.
        found: By key of a gradient-based method, its scores of weights of the general reference sets.
        batches: This rank's batches of the general sets.
        num_samples: Samples of all of them, of all ranks.
        seed: Seed of `random`.
        precision: Gives the context in which passes through the model run, such as the trainer's.

    Source: SparC3 (arXiv 2506.13727), Sec. 3: per row, magnitude of the mean relevance.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        found: Mapping[str, Sequence[ScoreSet]],
        batches: Batches,
        num_samples: int,
        seed: int = 0,
        precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.model, self.found, self.batches, self.num_samples = model, found, batches, num_samples
        self.precision, self.layers = precision, get_family(model.config.model_type).block_linears(model)
        self.scoring = Scoring(model=model, granularity="weight", modules=list(self.layers), seed=seed)
        self._seen: dict[frozenset[str], Any] = {}

    def masks(self, key: str, amount: float | Pattern) -> Masks:
        """Name and mask of one layer after the other, in this rank's rows. Every rank must take all of them.

        Args:
            key: Of the method.
            amount: Share of each row that goes, or N:M.

        Shape: masks (O, I) bool.
        """
        mask_by = partial(mask_of, amount=amount)
        if key == WandaSequential.name:
            # All before the first is applied: the blocks' inputs are those of its own pruned blocks.
            with self.precision():
                found = [(name, mask) for name, _, mask in self._see(SequentialPass(self.model, mask_by))]
            yield from found
            return
        score = self._scores(key)
        for name, layer in self.layers.items():
            yield name, mask_by(score(name, layer))

    def options(self, key: str) -> dict[str, Any]:
        """How a method scores, for the record."""
        if key in self.found:
            return dict(self.found[key][0].manifest.get("options", {}))
        return {"method": key} | ({"seed": self.scoring.seed} if key == "random" else {})

    def _scores(self, key: str) -> Callable[[str, nn.Module], Tensor]:
        if key in self.found:
            return partial(_relevance, self.found[key])
        method = METHODS[key](self.scoring)
        assert isinstance(method, ScoresRows), "relevance is found, and the published Wanda masks by itself"
        return partial(method.rows, seen=self._statistics(method))

    def _statistics(self, method: Method) -> Any:
        """What the method needs of the forward pass: measured once, whatever the amount."""
        forward = forward_pass([method])
        if forward is not None and method.needs not in self._seen:
            with self.precision():
                self._seen[method.needs] = self._see(forward)
        return self._seen.get(method.needs)

    def _see(self, one_pass: Pass) -> Any:
        return see(one_pass, self.batches(), self.num_samples)


def _relevance(sets: Sequence[ScoreSet], name: str, layer: nn.Module) -> Tensor:
    """Magnitude of the sets' mean."""
    weight, rows = own_rows(weight_of(layer))
    parts = [score_set.scores[name][rows].to(weight.device).double() for score_set in sets]
    return torch.stack(parts).mean(0).abs()


def joined(sets: Sequence[tuple[Iterable[Batch], int]]) -> Iterator[Batch]:
    """The batches of several reference sets as those of one: no two samples have the same index.

    Args:
        sets: Batches and number of samples of each.
    """
    offset = 0
    for batches, num_samples in sets:
        for batch in batches:
            indices = batch["indices"]
            yield {**batch, "indices": torch.where(indices == PADDING, PADDING, indices + offset)}
        offset += num_samples
