"""Log-probabilities of tokens at little cost: logits only where they are scored, no block below a change run again."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc3_lightning.data.batches import pad_right, plan_batches
from sparc3_lightning.lrp.patch import evaluating, pre_hook
from sparc3_lightning.metrics.perplexity import token_losses
from sparc3_lightning.models.families import get_family
from sparc3_lightning.pruning.lower_blocks import begun_at

_PASSAGES_AT_ONCE = 256


@dataclass(frozen=True)
class Passage:
    """Tokens, of which those from `start` on are scored.

    Attributes:
        ids: Token ids.
        start: The first token that is scored, at least 1.

    Shape: ids (T,).
    """

    ids: Tensor
    start: int = 1

    @property
    def num_scored(self) -> int:
        """How many tokens are scored."""
        return len(self.ids) - self.start


@dataclass
class _Batch:
    """Passages padded on the right.

    Attributes:
        rows: Row and position of each logit that is read.
        of: Place of its passage.
        entering: What enters a block of these passages, by its number, in the model as it was.
    """

    input_ids: Tensor
    rows: tuple[Tensor, Tensor]
    next_ids: Tensor
    of: Tensor
    entering: dict[int, Any] = field(default_factory=dict)


class Passages:
    """Passages whose log-probability under one model is asked again and again, while a few of its weights change.

    Args:
        model: A causal language model of a known family, as it is before any change.
        passages: What is scored.
        max_tokens: Most tokens in one forward pass, padding included.
        layers: Blocks at which a later pass may begin.

    Attributes:
        base: Log-probability of each passage's scored tokens together, before any change.
        num_tokens: How many tokens are scored in each passage.

    Shape: base (S,) float64, num_tokens (S,).
    Units: nats.
    """

    def __init__(
        self, model: PreTrainedModel, passages: Sequence[Passage], max_tokens: int = 2048, layers: Sequence[int] = ()
    ) -> None:
        self.model = model
        self._blocks: Sequence[nn.Module] = get_family(model.config.model_type).block_modules(model)
        self._head = model.get_output_embeddings()
        device = next(model.parameters()).device
        self._batches = [
            _batch(passages, indices, device)
            for indices in plan_batches([len(one.ids) - 1 for one in passages], _PASSAGES_AT_ONCE, max_tokens)
        ]
        self.num_tokens = torch.tensor([one.num_scored for one in passages])
        self.base = self._log_probs(0, keep={layer for layer in layers if layer})

    def log_probs(self, layer: int = 0) -> Tensor:
        """Log-probability of each passage's scored tokens together, in the model as it is now.

        Args:
            layer: The first block whose weights have changed, one of `layers` or 0.

        Shape: (S,) float64.
        Units: nats.
        """
        return self._log_probs(layer)

    @torch.no_grad()
    def _log_probs(self, layer: int, keep: set[int] = frozenset()) -> Tensor:  # type: ignore[assignment]
        found = torch.zeros(len(self.num_tokens), dtype=torch.float64)
        for batch in self._batches:
            values = self._pass(batch, layer, keep)
            found.index_add_(0, batch.of, values.cpu())
        return found

    def _pass(self, batch: _Batch, layer: int, keep: set[int]) -> Tensor:
        """Log-probabilities of the batch's scored tokens."""
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.model))
            known = batch.entering
            stack.enter_context(begun_at(self._blocks, layer, known.get(layer), keep, known.__setitem__))
            stack.enter_context(pre_hook(self._head, lambda module, args: (args[0][batch.rows][None], *args[1:])))
            logits = self.model(input_ids=batch.input_ids, use_cache=False).logits[0]
        return -token_losses(logits, batch.next_ids)


def _batch(passages: Sequence[Passage], indices: Sequence[int], device: torch.device) -> _Batch:
    places = [
        (row, position, passages[index].ids[position + 1], index)
        for row, index in enumerate(indices)
        for position in range(passages[index].start - 1, len(passages[index].ids) - 1)
    ]
    rows, positions, next_ids, of = (torch.tensor(column) for column in zip(*places, strict=True))
    # Nothing is read after the last token, for which the context may have no room.
    ids = pad_right([one.ids[:-1] for one in passages], indices)["input_ids"]
    return _Batch(ids.to(device), (rows.to(device), positions.to(device)), next_ids.to(device), of)
