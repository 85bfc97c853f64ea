"""How well a model does a task: is the right token more likely than the wrong one, and by how much?"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning.data.samples import ReferenceSamples, token_hash
from sparc3_lightning.evaluation.generation import last_logits
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
        """Three, a row a sample."""
        logits = self._logits(material)
        right, wrong = (
            logits.gather(1, torch.tensor(ids)[:, None])[:, 0]
            for ids in (self.samples.targets or [], self.samples.against)
        )
        found = {
            "accuracy": ("share", 2, (right > wrong).double()),
            "argmax_accuracy": ("share", 2, (right >= logits.amax(1)).double()),
            "logit_difference": ("logits", 2, right - wrong),
        }
        for name, (unit, digits, values) in found.items():
            yield Column(
                f"{self.name}/{name}", unit, "higher", "prompt", "mean", self.samples.sample_ids, values,
                role=self.role, digits=digits, setting={"samples": self.samples.token_hash},
                limits=None if unit == "logits" else (0.0, 1.0),
            )  # fmt: skip

    def _logits(self, material: Material) -> Tensor:
        """Shape: (S, V) float32, on the CPU."""
        found: dict[int, Tensor] = {}
        for rows in batches_of(self.samples.ids, material.batch_size, material.max_tokens):
            twins = [self.samples.corrupted[row] for row in rows] if self.with_twins else []
            logits = last_token_logits(material.model, [self.samples.ids[row] for row in rows] + twins)
            found |= zip(rows, logits[: len(rows)].float().cpu(), strict=True)
        return torch.stack([found[row] for row in range(len(found))])


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
