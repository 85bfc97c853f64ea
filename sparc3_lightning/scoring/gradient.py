"""Relevance: mean of W * gradient over a reference set, under LRP's rules or none."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sparc3_lightning.data.batches import PADDING, Batch
from sparc3_lightning.distributed.owners import gather_to_owner, share_out, sum_to_owner
from sparc3_lightning.distributed.ranks import gather_objects, raise_together, world_size
from sparc3_lightning.lrp.attribution import Attribution
from sparc3_lightning.lrp.rules import Variant
from sparc3_lightning.lrp.targets import parse_target
from sparc3_lightning.models.sharding import reshard
from sparc3_lightning.scoring.manifest import Options, SetData
from sparc3_lightning.scoring.method import Method, Scored, check_every_sample


class Gradient(Method):
    """Mean of W * plain gradient: no rules."""

    name = "gradient"
    variant: ClassVar[Variant | None] = "gradient"
    orders_weights = True

    @property
    def options(self) -> Options:
        """How it scores, the rules and the target with it."""
        assert self.variant is not None
        target = parse_target(self.scoring.target, self.scoring.model.config.vocab_size, self.scoring.explain)
        return Options(**super().options, variant=self.variant, target=str(target), explain=target.explain)

    def new_pass(self) -> "RelevancePass":
        """An attribution."""
        return RelevancePass(self)

    def scores(self, seen: Scored, data: SetData) -> Scored:
        """What the attribution has found."""
        return seen


class LRP(Gradient):
    """Mean relevance, AttnLRP."""

    name = "lrp"
    variant = "attnlrp"


class CPLRP(Gradient):
    """Mean relevance, CP-LRP."""

    name = "cp_lrp"
    variant = "cp_lrp"


class RelevancePass:
    """An attribution over all ranks: one reference set after the other, inside a `with` block.

    Args:
        method: What scores.

    Attributes:
        method: What scores.
        attribution: What sums relevance on this rank.

    Raises:
        ValueError: An unknown option; or shards that relevance cannot be summed in.
    """

    def __init__(self, method: Gradient) -> None:
        scoring = method.scoring
        assert method.variant is not None
        reshard(scoring.model)
        self.method = method
        self.attribution = Attribution(
            scoring.model, granularity=scoring.granularity, sign=method.sign, target=scoring.target,
            explain=scoring.explain, modules=scoring.modules, variant=method.variant, kernel=scoring.kernel,
            activation_checkpointing=scoring.activation_checkpointing,
        )  # fmt: skip
        _check_accumulates(self.attribution)
        self._explained: list[Tensor] = []

    def __enter__(self) -> Self:
        self.attribution.__enter__()
        self._explained = []
        return self

    def __exit__(self, *exception: object) -> None:
        self.attribution.__exit__(*exception)

    @property
    def explained(self) -> list[tuple[int, int]]:
        """Index and explained token of each sample of this rank, of the reference set in progress."""
        pairs = [pair for batch in self._explained for pair in batch.T.tolist()]
        return [(index, token) for index, token in pairs if index != PADDING]

    @explained.setter
    def explained(self, pairs: Sequence[tuple[int, int]]) -> None:
        self._explained = [torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T]

    def step(self, batch: Batch) -> Tensor:
        """Attribute one batch; a sample that breaks on one rank ends all of them, and says so on all.

        Returns:
            The explained token of each sample.

        Shape: result (B,).
        Raises:
            FloatingPointError: A value that is not finite.
        """
        indices = batch["indices"]
        step = partial(
            self.attribution.step, batch["input_ids"], batch["lengths"], batch["weights"], indices,
            batch["targets"], batch["against"],
        )  # fmt: skip
        ids = raise_together(step, FloatingPointError, self.attribution.device)
        # They stay on the device until the set ends: a copy to the host would wait for the batch.
        self._explained.append(torch.stack([indices.to(ids), ids]))
        return ids

    def reduce(self, num_samples: int) -> Scored:
        """Mean over the real samples of all ranks, in the accumulators' type; what was summed is overwritten.

        Raises:
            ValueError: Samples are missing or came twice. On every rank.
        """
        gathered = gather_objects(self.explained)
        check_every_sample([index for index, _ in gathered], num_samples)
        reduce = _reduce_neurons if self.attribution.granularity == "neuron" else _reduce_weights
        scores = reduce(self.attribution.sums(), num_samples)
        return Scored(scores, list(dict(sorted(gathered)).values()))

    def reset(self) -> None:
        """A new reference set begins."""
        self.attribution.reset()
        self._explained = []


def _reduce_neurons(sums: Mapping[str, Tensor], num_samples: int) -> dict[str, Tensor]:
    """All on rank 0, in one message: there are few."""
    total = sum_to_owner(torch.cat(list(sums.values())), owner=0)
    if total is None:
        return {}
    return dict(zip(sums, torch.split(total / num_samples, [len(part) for part in sums.values()]), strict=True))


def _reduce_weights(sums: Mapping[str, Tensor], num_samples: int) -> dict[str, Tensor]:
    """Module by module to the rank that it belongs to; FSDP2's gradients are summed already."""
    owners = share_out({name: total.numel() for name, total in sums.items()}, world_size())
    found: dict[str, Tensor] = {}
    for name, total in sums.items():
        to_owner = (
            gather_to_owner(total, owners[name]) if isinstance(total, DTensor) else sum_to_owner(total, owners[name])
        )
        if to_owner is not None:
            # In place: on a CPU these are the sums themselves, of which there need be no second copy.
            found[name] = to_owner.div_(num_samples)
    return found


def _check_accumulates(attribution: Attribution) -> None:
    """Refuse to accumulate relevance in shards of half precision (traps 6 and 7).

    Raises:
        ValueError: The shards are of half precision: `trainer.precision` converts them after they were made.
    """
    dtype = attribution.model.dtype
    if attribution.reduced_by_fsdp and dtype.itemsize < 4:
        raise ValueError(
            f"`trainer.precision` must leave the shards in float32, in which relevance is summed, got {dtype}. Set "
            "`trainer.precision: 32-true` and `model.dtype: bfloat16`: stored in float32, computed in bfloat16."
        )
