"""How well a model does a task: is the right token more likely than the wrong one, and by how much?"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning.data.samples import ReferenceSamples, token_hash
from sparc3_lightning.distributed.owners import is_sharded
from sparc3_lightning.distributed.ranks import gather_objects, raise_together, rank_and_world_size
from sparc3_lightning.evaluation.generation import last_logits
from sparc3_lightning.lrp.targets import lowest_argmax
from sparc3_lightning.metrics.measure import Column, Material, Measure, Role


class TaskMeasure(Measure):
    """Accuracy and logit difference on samples that a right token follows, contrasted with a wrong one.

    Args:
        samples: What is asked; see `IOI`.
        name: The columns' name, before `/accuracy`, `/argmax_accuracy` and `/logit_difference`.
        with_twins: Pass each batch with its corrupted twins after it, as replacement by theirs needs.
        role: What the columns are evidence of.
    """

    def __init__(
        self, samples: ReferenceSamples, name: str = "task", with_twins: bool = False, role: Role = "beside"
    ) -> None:
        assert samples.targets, "a task names the right token"
        assert samples.against, "and the wrong one"
        assert not with_twins or samples.corrupted, "the samples have twins"
        self.samples, self.name, self.with_twins, self.role = samples, name, with_twins, role

    def setting(self) -> dict[str, Any]:
        """The samples by their hash, and the twins'."""
        twins = token_hash(self.samples.corrupted) if self.with_twins else None
        return {"class": type(self).__name__, "name": self.name, "samples": self.samples.token_hash, "twins": twins}

    def columns(self, material: Material) -> Iterator[Column]:
        """Three, a row a sample.

        Raises:
            ValueError: A logit is not finite; names the sample.
        """
        difference, is_first = self._asked(material)
        # By all ranks: a circuit that cannot be asked ends alone.
        raise_together(partial(self._check_finite, difference), ValueError, material.model.device)
        found = {
            "accuracy": ("share", (difference > 0).double()),
            "argmax_accuracy": ("share", is_first.double()),
            "logit_difference": ("logits", difference),
        }
        for name, (unit, values) in found.items():
            yield Column(
                f"{self.name}/{name}", unit, "higher", "prompt", "mean", self.samples.sample_ids, values,
                role=self.role, digits=2, setting={"samples": self.samples.token_hash},
                limits=None if unit == "logits" else (0.0, 1.0),
            )  # fmt: skip

    def _check_finite(self, difference: Tensor) -> None:
        if not bool(difference.isfinite().all()):
            place = int((~difference.isfinite()).nonzero()[0])
            raise ValueError(
                f"logits of the task's sample {self.samples.sample_ids[place]} must be finite, got "
                f"{difference[place].item()}. Set another `model.dtype`."
            )

    def _asked(self, material: Material) -> tuple[Tensor, Tensor]:
        """Logit differences, and whether the right token is the model's own choice; ranks share the samples.

        Shape: (S,) float32 and bool, on the CPU.
        """
        difference, is_first = torch.empty(len(self.samples)), torch.empty(len(self.samples), dtype=torch.bool)
        halves = 2 if self.with_twins else 1  # of what a pass may hold
        limits = max(1, material.batch_size // halves), max(1, material.max_tokens // halves)
        # A sharded model needs every rank in every pass.
        rank, world = (0, 1) if is_sharded(material.model) else rank_and_world_size()
        ids, total = self.samples.ids, len(self.samples)
        places = sorted(range(total), key=lambda place: len(ids[place]))  # a rank's samples are of few lengths
        places = places[rank * total // world : (rank + 1) * total // world]
        batches = batches_of([ids[place] for place in places], *limits)
        mine = [(rows, *self._asked_of(material.model, rows)) for rows in ([places[at] for at in b] for b in batches)]
        for rows, differences, firsts in gather_objects(mine) if world > 1 else mine:
            difference[rows], is_first[rows] = differences, firsts
        return difference, is_first

    def _asked_of(self, model: PreTrainedModel, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The same of samples of one length, in one pass."""
        twins = [self.samples.corrupted[row] for row in rows] if self.with_twins else []
        logits = last_token_logits(model, [self.samples.ids[row] for row in rows] + twins)[: len(rows)].float()
        right, wrong = (
            torch.tensor([ids[row] for row in rows], device=logits.device)[:, None]
            for ids in (self.samples.targets or [], self.samples.against)
        )
        difference = (logits.gather(1, right) - logits.gather(1, wrong))[:, 0]
        return difference.cpu(), (lowest_argmax(logits) == right[:, 0]).cpu()


def batches_of(ids: Sequence[Tensor], batch_size: int, max_tokens: int) -> list[list[int]]:
    """Places of the samples of each pass, which are of one length: none is padded.

    Args:
        ids: Token ids of each sample.
        batch_size: Most samples in a pass.
        max_tokens: Most tokens in one; a single sample may be longer.
    """
    of_length: dict[int, list[int]] = {}
    for place, one in enumerate(ids):
        of_length.setdefault(len(one), []).append(place)
    batches = []
    for length, places in sorted(of_length.items()):
        num = max(1, min(batch_size, max_tokens // length))
        batches += [places[start : start + num] for start in range(0, len(places), num)]
    return batches


def last_token_logits(model: PreTrainedModel, ids: Sequence[Tensor]) -> Tensor:
    """Logits after each of some samples of one length.

    Shape: ids (T,) each, result (S, V).
    """
    input_ids = torch.stack(list(ids)).to(next(model.parameters()).device)
    found: Tensor = model(input_ids=input_ids, use_cache=False, **last_logits(model, 1)).logits
    return found[:, -1]
