"""How much an attribution has to compute and to move, counted: what achieved rates are taken of."""

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from sparc3_lightning.plan.sizes import Sizes

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
    sizes, size = Sizes(model.config), model.dtype.itemsize
    if kind == "forward":
        read = size * sum(linear.numel for linear in sizes.linears)
        return Work(sum(sizes.forward_flops(length) for length in lengths), float(read * num_batches))
    modules = "neurons" if kind == "neuron" else "all"
    attributed, counted = sizes.attributed(modules), sizes.count(modules, str(model.dtype).removeprefix("torch."))
    first = min(linear.block for linear in attributed)
    flops = sum(counted(length).forward_flops + counted(length).backward_flops for length in lengths)
    read = size * sum(linear.numel * (1 + (linear.block >= first)) for linear in sizes.linears)
    added = sum(linear.numel for linear in attributed) * (size + (8 if kind == "weight" else 0))
    return Work(flops, float((read + added) * num_batches))


def product_work(shape: tuple[int, int], num_tokens: int, kind: Kind, itemsize: int) -> Work:
    """The relevance of one layer in one batch."""
    numel = shape[0] * shape[1]
    moved = numel * (itemsize + (8 if kind == "weight" else 0)) + num_tokens * sum(shape) * itemsize
    return Work(2.0 * numel * num_tokens, float(moved))
