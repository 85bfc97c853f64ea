"""How much an attribution has to compute and to move, in closed form: what achieved rates are taken of."""

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from sparc3_lightning.plan.shape import shape_of
from sparc3_lightning.plan.work import forward_flops, input_gradient_flops, product_flops

Kind = Literal["forward", "neuron", "weight"]


@dataclass(frozen=True)
class Work:
    """Floating-point operations (a multiplication and an addition are two), and bytes of weights and accumulators."""

    flops: float
    bytes: float


def attribution_work(model: PreTrainedModel, lengths: list[int], num_batches: int, kind: Kind) -> Work:
    """One pass over unpadded samples of these lengths.

    "forward": a forward pass with one token's logits. "neuron": forward, input gradients, and the products of the
    neuron modules. "weight": those of all linear layers. Causal attention counts half of its T x T, and its backward
    pass two and a half times its forward pass. Weights are read once a pass and a batch, and once more for a product;
    an accumulator of weights is read and written once a batch.
    """
    shape, size = shape_of(model.config.to_dict()), model.dtype.itemsize
    if kind == "forward":
        read = size * sum(linear.numel for linear in shape.linears)
        return Work(sum(forward_flops(shape, length, full=True) for length in lengths), float(read * num_batches))
    attributed = shape.attributed("neurons" if kind == "neuron" else "all")
    first = min(linear.place for linear in attributed)
    flops = sum(
        forward_flops(shape, length)
        + input_gradient_flops(shape, length, attributed)
        + product_flops(shape, length, attributed)
        for length in lengths
    )
    read = size * sum(linear.numel * (1 + (linear.place > first)) for linear in shape.linears)
    added = sum(linear.numel for linear in attributed) * (size + (8 if kind == "weight" else 0))
    return Work(flops, float((read + added) * num_batches))


def product_work(shape: tuple[int, int], num_tokens: int, kind: Kind, itemsize: int) -> Work:
    """The relevance of one layer in one batch."""
    numel = shape[0] * shape[1]
    moved = numel * (itemsize + (8 if kind == "weight" else 0)) + num_tokens * sum(shape) * itemsize
    return Work(2.0 * numel * num_tokens, float(moved))
