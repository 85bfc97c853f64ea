"""What a linear layer is, and how what it stores becomes (O, I): the only place that knows the layers' classes."""

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def is_linear(module: object) -> bool:
    """Whether a module is a linear layer: it may score, and lose weights."""
    return isinstance(module, nn.Linear | Conv1D)


def out_in(layer: nn.Module, stored: Tensor) -> Tensor:
    """A tensor that lies as the layer's weight does, seen as (O, I); given such a view, it lies as the weight again.

    Args:
        layer: A linear layer; GPT-2's Conv1D stores (I, O).
        stored: Its weight, the weight's gradient, or what is to become one; sharded (FSDP2) ones too.

    Returns:
        A view: what is written to it is written to `stored`.
    """
    return stored.t() if isinstance(layer, Conv1D) else stored


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a linear layer as (O, I), detached: a view, as long as the layer holds this weight."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return out_in(layer, weight.detach())
