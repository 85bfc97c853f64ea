"""Counts what an attribution computes, moves and keeps, operation by operation."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from sparc3_lightning.lrp.attribution import Attribution
from sparc3_lightning.plan.shape import Shape, shape_of
from tests.tiny import tiny_llama

VIEWS = (
    "view", "transpose", "expand", "slice", "select", "unsqueeze", "detach", "alias", "t.", "_unsafe_view", "permute",
    "empty",
)  # fmt: skip
PRODUCTS = ("mm", "bmm", "_scaled_dot_product")


def model_of(dtype: torch.dtype = torch.bfloat16, **shape: int) -> tuple[PreTrainedModel, Shape]:
    """A tiny LLaMA and its shape."""
    model = tiny_llama(dtype=dtype, max_position_embeddings=512, **shape)
    return model, shape_of(model.config.to_dict())


class _Traffic(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func).removeprefix("aten.")
        if not name.startswith(VIEWS + PRODUCTS):
            tensors = [tensor for tensor in tree_leaves((args, kwargs, out)) if isinstance(tensor, Tensor)]
            self.bytes[name] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


def attribute(
    model: PreTrainedModel,
    tokens: int,
    batch: int,
    granularity: Any,
    modules: str | Sequence[str],
    checkpoints: bool = False,
) -> None:
    ids = torch.arange(batch * tokens).reshape(batch, tokens) % model.config.vocab_size
    options = {"granularity": granularity, "modules": modules, "activation_checkpointing": checkpoints}
    with Attribution(model, **options) as attribution:
        attribution.step(ids, torch.full((batch,), tokens))


def flops(model: PreTrainedModel, tokens: int, batch: int, granularity: str, modules: str | Sequence[str]) -> int:
    with FlopCounterMode(display=False) as counter:
        attribute(model, tokens, batch, granularity, modules)
    return int(counter.get_total_flops())


def traffic(model: PreTrainedModel, tokens: int, granularity: str, modules: str | Sequence[str]) -> int:
    """Bytes that all but matrix products read and write."""
    with _Traffic() as counter:
        attribute(model, tokens, 1, granularity, modules)
    return sum(counter.bytes.values())


def kept(
    model: PreTrainedModel,
    tokens: int,
    batch: int,
    granularity: str,
    modules: str | Sequence[str],
    checkpoints: bool = False,
) -> int:
    """Bytes of the activations that the backward pass needs, parameters left out."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, tuple[int, Any]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage.nbytes(), storage  # held, so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attribute(model, tokens, batch, granularity, modules, checkpoints)
    return sum(num_bytes for num_bytes, _ in found.values())
