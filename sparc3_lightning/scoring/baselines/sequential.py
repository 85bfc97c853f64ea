"""Wanda as published for compression: block by block, each block scored on what the pruned blocks before it give."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc3_lightning.data.batches import Batch
from sparc3_lightning.distributed.owners import is_sharded, own_rows
from sparc3_lightning.families import get_family
from sparc3_lightning.families.layers import is_linear, weight_of
from sparc3_lightning.lrp.patch import frozen, replaced_forward
from sparc3_lightning.pruning.apply import Applied
from sparc3_lightning.scoring.baselines.formulas import lowest_per_row, wanda_scores
from sparc3_lightning.scoring.baselines.statistics import ForwardStatistics


def check_whole_rows(model: PreTrainedModel) -> None:
    """Refuse a sharded model: `sequential_wanda` gives each layer's whole rows.

    Raises:
        ValueError: It is sharded.
    """
    if is_sharded(model):
        raise ValueError(
            "method 'wanda_sequential' needs each layer's whole rows, got a sharded model. Use "
            "`configs/trainer/replicated.yaml`."
        )


def sequential_wanda(
    model: PreTrainedModel, batches: Iterable[Batch], num_samples: int, sparsity: float
) -> dict[str, Tensor]:
    """Wanda's scores of every linear layer of every block, as its masks at `sparsity` are taken from them.

    The mask is `lowest_per_row(scores, sparsity)`; see `sequential_masks`.

    Args:
        model: A causal language model of a known family, not sharded.
        batches: This rank's batches.
        num_samples: Samples of all ranks.
        sparsity: Share of each row that is removed.

    Returns:
        Scores by module name.

    Shape: each (O, I).
    Raises:
        ValueError: The model is sharded; a sparsity outside [0, 1].
    """
    check_whole_rows(model)
    found = sequential_masks(model, batches, num_samples, partial(lowest_per_row, sparsity=sparsity))
    return {name: scores for name, scores, _ in found}


@torch.no_grad()
def sequential_masks(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    num_samples: int,
    mask_of: Callable[[Tensor], Tensor],
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, Wanda's scores and mask of every linear layer of every block, one after the other.

    The norm is over all tokens; the published mean over samples differs by one factor, which no row's order sees. While
    it runs the blocks that are done are pruned, and a copy of their linear layers is kept; at its end, also an early
    one, the model is as it was, bit for bit. lm_head is left out.

    Every sample passes each block twice, whatever their number: as it is, for the scores, and pruned, for the next
    block's inputs. So this rank's hidden states lie on the model's device: samples x tokens x width numbers.

    Args:
        model: A causal language model of a known family; of a sharded one (FSDP2) scores and masks are of the rows that
            this rank holds, and every rank must take all of them.
        batches: This rank's batches.
        num_samples: Samples of all ranks.
        mask_of: From a layer's scores to the mask of what goes; row by row.

    Shape: scores and mask (O, I).
    Source: Sun et al., ICLR 2024 (Wanda), Sec. 3 and Algorithm 1; github locuslab/wanda, lib/prune.py.
    """
    names = {module: name for name, module in model.named_modules()}
    blocks = get_family(model.config.model_type).block_modules(model)
    states = [_States(model, blocks, batch) for batch in batches]
    with Applied() as pruned:
        for block in blocks:
            linears = {names[module]: module for module in block.modules() if is_linear(module)}
            with ForwardStatistics(model, list(linears)) as statistics:
                for state in states:
                    statistics.watch(state.batch, partial(state.through, block))
                found = statistics.reduce(num_samples)
            for name, linear in linears.items():
                weight, _ = own_rows(weight_of(linear))
                scores = wanda_scores(weight, found.squared_norms[name], by_neuron=False)
                mask = mask_of(scores)
                pruned.zero(weight, mask)
                yield name, scores, mask
            if block is not blocks[-1]:
                with frozen(model):
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
