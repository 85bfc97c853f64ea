"""How much an attribution has to compute and to move, in closed form: what achieved rates are taken of."""

from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from sparc3_lightning.families import Family, get_family

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
    family = get_family(model.config.model_type)
    linears = {name: module.weight.numel() for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    last = {id(part) for module in family.last_token_modules(model) for part in module.modules()}
    few = {name for name in linears if id(model.get_submodule(name)) in last}
    everywhere, once = sum(lengths), len(lengths)
    attention = sum(2.0 * length**2 * model.config.hidden_size for length in lengths) * model.config.num_hidden_layers
    size = model.dtype.itemsize
    if kind == "forward":
        flops = sum(2 * numel * (once if name == "lm_head" else everywhere) for name, numel in linears.items())
        return Work(flops + attention, float(size * sum(linears.values()) * num_batches))
    tokens = {name: once if name in few else everywhere for name in linears}
    scored = family.neuron_modules(model) if kind == "neuron" else list(linears)
    below = _below_the_first(family, list(linears), kind)
    flops = sum(2 * linears[name] * tokens[name] * (1 if name in below else 2) for name in linears)
    query = family.last_query(model)
    flops += sum(2 * linears[name] * (once if name == query else tokens[name]) for name in scored)
    moved = size * sum(numel * (1 if name in below else 2) for name, numel in linears.items())
    moved += sum(linears[name] * (size + (8 if kind == "weight" else 0)) for name in scored)
    return Work(flops + 3.5 * attention, float(moved * num_batches))


def _below_the_first(family: Family, linears: list[str], kind: Kind) -> set[str]:
    """Layers whose input has no gradient: nothing below the first scored layer's output needs one."""
    block = f"{family.blocks}.0."
    first = [name for name in linears if name.startswith(block)]
    if kind == "neuron":
        return {name for name in first if name != f"{block}{family.mlp}.{family.down}"}
    return {name for name in first if name.endswith(("q_proj", "k_proj", "v_proj"))}


def product_work(shape: tuple[int, int], num_tokens: int, kind: Kind, itemsize: int) -> Work:
    """The relevance of one layer in one batch."""
    numel = shape[0] * shape[1]
    moved = numel * (itemsize + (8 if kind == "weight" else 0)) + num_tokens * sum(shape) * itemsize
    return Work(2.0 * numel * num_tokens, float(moved))
