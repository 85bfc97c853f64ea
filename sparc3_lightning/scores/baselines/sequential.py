"""Wanda as published for compression: block by block, each block scored on what the pruned blocks before it give."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sparc3_lightning.data.sampler import Batch
from sparc3_lightning.families import get_family
from sparc3_lightning.scores.baselines.formulas import lowest_per_row, wanda_scores
from sparc3_lightning.scores.baselines.statistics import ForwardStatistics


@torch.no_grad()
def sequential_wanda(
    model: PreTrainedModel, batches: Callable[[], Iterable[Batch]], num_samples: int, sparsity: float
) -> dict[str, Tensor]:
    """Wanda's scores of every linear layer of every block, as its masks at `sparsity` are taken from them.

    The mask is `lowest_per_row(scores, sparsity)`. The norm is over all tokens; the published mean over samples differs
    by one factor, which no row's order sees. The model is as it was afterwards, bit for bit; meanwhile one copy of its
    linear layers is kept. Every block costs a forward pass over all samples. lm_head is left out.

    Args:
        model: A causal language model of a known family, not sharded.
        batches: This rank's batches, from the start each time.
        num_samples: Samples of all ranks.
        sparsity: Share of each row that is removed.

    Returns:
        Scores by module name.

    Shape: each (O, I).
    Raises:
        ValueError: The model is sharded; a sparsity outside [0, 1].
    Source: Sun et al., ICLR 2024 (Wanda), Sec. 3 and Algorithm 1; github locuslab/wanda, lib/prune.py.
    """
    scores: dict[str, Tensor] = {}
    saved: list[tuple[Tensor, Tensor]] = []
    try:
        for block in get_family(model.config.model_type).block_modules(model):
            linears = _linears(model, block)
            with ForwardStatistics(model, list(linears)) as statistics:
                for batch in batches():
                    statistics.step(batch)
                found = statistics.reduce(num_samples)
            for name, linear in linears.items():
                weight = linear.weight.detach()
                scores[name] = wanda_scores(weight, found.squared_norms[name], by_neuron=False)
                saved.append((weight, weight.clone()))
                weight.masked_fill_(lowest_per_row(scores[name], sparsity), 0.0)
    finally:
        for weight, values in saved:
            weight.copy_(values)
    return scores


def _linears(model: PreTrainedModel, block: nn.Module) -> dict[str, nn.Linear]:
    names = {module: name for name, module in model.named_modules()}
    linears = {names[module]: module for module in block.modules() if isinstance(module, nn.Linear)}
    if any(isinstance(linear.weight, DTensor) for linear in linears.values()):
        raise ValueError(
            "method 'wanda_sequential' needs each layer's whole rows, got a sharded model. Use "
            "`configs/trainer/replicated.yaml`."
        )
    return linears
