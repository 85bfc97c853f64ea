"""Scores made of the weights, gathered one layer at a time where they are sharded."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sparc3_lightning.distributed.fsdp import reshard
from sparc3_lightning.distributed.owners import gather_to_owner, share_out
from sparc3_lightning.distributed.ranks import rank_and_world_size
from sparc3_lightning.families.layers import weight_of


def scores_of_weights(
    model: PreTrainedModel, names: Sequence[str], by_neuron: bool, formula: Callable[[str, Tensor], Tensor]
) -> dict[str, Tensor]:
    """A formula over each layer's full weight, on the CPU of the rank that its scores belong to. Every rank must call.

    Args:
        model: The model.
        names: Linear layers.
        by_neuron: Scores are one a row, and all rank 0's; otherwise the layers are shared out over the ranks.
        formula: Scores of a layer from its name and weight (O, I).
    """
    reshard(model)
    rank, num_ranks = rank_and_world_size()
    sizes = {name: math.prod(shape) for name, shape in score_shapes(model, names, by_neuron=False).items()}
    owners = dict.fromkeys(names, 0) if by_neuron else share_out(sizes, num_ranks)
    scores: dict[str, Tensor] = {}
    for name in names:
        weight = weight_of(model.get_submodule(name))
        full = gather_to_owner(weight, owners[name]) if isinstance(weight, DTensor) else weight
        if rank == owners[name]:
            assert full is not None
            scores[name] = formula(name, full).cpu()
    return scores


def score_shapes(model: PreTrainedModel, names: Sequence[str], by_neuron: bool) -> dict[str, tuple[int, ...]]:
    """Shape of each layer's scores: (O,) or (O, I)."""
    return {name: tuple(weight_of(model.get_submodule(name)).shape[: 1 if by_neuron else 2]) for name in names}
