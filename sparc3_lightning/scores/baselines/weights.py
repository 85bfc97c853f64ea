"""Scores made of the weights, gathered one layer at a time where they are sharded."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sparc3_lightning.distributed.fsdp import reshard
from sparc3_lightning.distributed.ranks import is_rank_zero


def scores_of_weights(
    model: PreTrainedModel, names: Sequence[str], formula: Callable[[str, Tensor], Tensor]
) -> dict[str, Tensor]:
    """A formula over each layer's full weight, on rank 0's CPU; other ranks get nothing. Every rank must call.

    Args:
        model: The model.
        names: Linear layers.
        formula: Scores of a layer from its name and weight (O, I).
    """
    reshard(model)
    scores: dict[str, Tensor] = {}
    for name in names:
        weight = _weight(model, name)
        full = weight.full_tensor() if isinstance(weight, DTensor) else weight
        if is_rank_zero():
            scores[name] = formula(name, full).cpu()
    return scores


def score_shapes(model: PreTrainedModel, names: Sequence[str], by_neuron: bool) -> dict[str, tuple[int, ...]]:
    """Shape of each layer's scores: (O,) or (O, I)."""
    return {name: tuple(_weight(model, name).shape[: 1 if by_neuron else 2]) for name in names}


def _weight(model: PreTrainedModel, name: str) -> Tensor:
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module.weight.detach()
