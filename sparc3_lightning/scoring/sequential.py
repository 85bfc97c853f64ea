"""Wanda as published for compression: block by block, each block scored on what the pruned blocks before it give."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc3_lightning.data.batches import Batch
from sparc3_lightning.distributed.owners import is_sharded, own_rows
from sparc3_lightning.lrp.patch import frozen, replaced_forward
from sparc3_lightning.models.applied import Applied
from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.families.layers import is_linear, weight_of
from sparc3_lightning.scoring.activations import ForwardStatistics, wanda_scores
from sparc3_lightning.scoring.manifest import Options, SetData
from sparc3_lightning.scoring.method import Method, Scored, of_rank_zero
from sparc3_lightning.scoring.weights import lowest_per_row

Masked = Iterator[tuple[str, Tensor, Tensor]]


class WandaSequential(Method):
    """|W| times the norm, each block after the blocks before it were pruned, per row; the layers are the blocks'."""

    name = "wanda_sequential"
    orders_weights = True

    @classmethod
    def check(cls, model: PreTrainedModel) -> None:
        """Refuse a sharded model: scores are each layer's whole rows.

        Raises:
            ValueError: It is sharded.
        """
        if is_sharded(model):
            raise ValueError(
                f"method {cls.name!r} needs each layer's whole rows, got a sharded model. Use "
                "`configs/trainer/replicated.yaml`."
            )

    @property
    def options(self) -> Options:
        """The sparsity with them."""
        return Options(
            method=self.name, sign=self.sign, granularity="weight", modules="blocks", sparsity=self.scoring.sparsity
        )

    @property
    def layers(self) -> list[str]:
        """All but lm_head."""
        return list(get_family(self.scoring.model.config.model_type).block_linears(self.scoring.model))

    def new_pass(self) -> "SequentialPass":
        """Its masks are `lowest_per_row(scores, sparsity)`."""
        self.check(self.scoring.model)
        return SequentialPass(self.scoring.model, partial(lowest_per_row, sparsity=self.scoring.sparsity))

    def scores(self, seen: Masked, data: SetData) -> Scored:
        """Wanda's scores, as the masks are taken from them."""
        return Scored(of_rank_zero({name: scores for name, scores, _ in seen}))


class SequentialPass:
    """Passes batches through the model block by block, and prunes each block before the next one is scored.

    Every sample passes each block twice, whatever their number: as it is, for the scores, and pruned, for the next
    block's inputs. So this rank's hidden states lie on the model's device: samples x tokens x width numbers.

    Args:
        model: A causal language model of a known family; of a sharded one (FSDP2) scores and masks are of the rows that
            this rank holds.
        mask_of: From a layer's scores to the mask of what goes; row by row.

    Source: Sun et al., ICLR 2024 (Wanda), Sec. 3 and Algorithm 1; github locuslab/wanda, lib/prune.py.
    """

    def __init__(self, model: PreTrainedModel, mask_of: Callable[[Tensor], Tensor]) -> None:
        self.model, self.mask_of = model, mask_of
        self._blocks = get_family(model.config.model_type).block_modules(model)
        self._states: list[_States] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._states = []

    @torch.no_grad()
    def step(self, batch: Batch) -> None:
        """Note the states that the first block gets."""
        self._states.append(_States(self.model, self._blocks, batch))

    def reduce(self, num_samples: int) -> Masked:
        """Name, Wanda's scores and mask of every linear layer of every block, one after the other.

        The norm is over all tokens; the published mean over samples differs by one factor, which no row's order sees.
        While it is iterated over, the blocks that are done are pruned, and a copy of their linear layers is kept; at
        its end, also an early one, the model is as it was, bit for bit. lm_head is left out. Every rank must take all.

        Shape: scores and mask (O, I).
        """
        states, self._states = self._states, []
        return self._masked(states, num_samples)

    @torch.no_grad()
    def _masked(self, states: list["_States"], num_samples: int) -> Masked:
        names = {module: name for name, module in self.model.named_modules()}
        with Applied() as pruned:
            for block in self._blocks:
                linears = {names[module]: module for module in block.modules() if is_linear(module)}
                with ForwardStatistics(self.model, list(linears)) as statistics:
                    for state in states:
                        statistics.watch(state.batch, partial(state.through, block))
                    found = statistics.reduce(num_samples)
                for name, linear in linears.items():
                    weight, _ = own_rows(weight_of(linear))
                    scores = wanda_scores(weight, found.squared_norms[name], by_neuron=False)
                    mask = self.mask_of(scores)
                    pruned.zero(weight, mask)
                    yield name, scores, mask
                if block is not self._blocks[-1]:
                    with frozen(self.model):
                        for state in states:
                            state.hidden = state.through(block)


class _States:
    """A batch's hidden states at one block, and what else the model gives each block beside them.

    Args:
        model: The model.
        blocks: Its decoder blocks, in order.
        batch: The batch; its states at first are those that the first block gets.
    """

    def __init__(self, model: PreTrainedModel, blocks: Sequence[nn.Module], batch: Batch) -> None:
        self.batch = batch
        self._beside: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        with ExitStack() as stack:
            stack.enter_context(frozen(model))
            for block in blocks:
                stack.enter_context(replaced_forward(block, partial(self._note, block)))
            # Masks and positions are the model's to make, block by block: it runs with blocks that do nothing.
            model(input_ids=batch["input_ids"], use_cache=False, logits_to_keep=1)

    def _note(self, block: nn.Module, hidden: Tensor, *rest: Any, **options: Any) -> Tensor:
        self.hidden, self._beside[block] = hidden, (rest, options)
        return hidden

    def through(self, block: nn.Module) -> Tensor:
        """What the block makes of the states."""
        rest, options = self._beside[block]
        output: Tensor = block(self.hidden, *rest, **options)
        return output
