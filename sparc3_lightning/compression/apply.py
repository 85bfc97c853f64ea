"""Zero the weights of masks, and put them back bit for bit."""

from collections.abc import Iterable, Mapping
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc3_lightning.distributed.owners import is_split_by_columns, own_rows
from sparc3_lightning.families import get_family
from sparc3_lightning.families.layers import is_linear, weight_of


def block_linears(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Every linear layer of the decoder blocks by name: all but lm_head.

    Raises:
        ValueError: An unknown family, or a layer that is something else (quantised), or of whose rows this rank holds
            parts only.
    """
    family = get_family(model.config.model_type)
    family.check_linears(model)
    layers = {
        name: layer for name, layer in family.linear_modules(model).items() if name.startswith(f"{family.blocks}.")
    }
    if any(is_split_by_columns(weight_of(layer)) for layer in layers.values()):
        raise ValueError(
            f"compression needs whole rows of the weights, got a sharded model of type {family.model_type!r}, which "
            "stores them as (inputs, outputs). Use `configs/trainer/replicated.yaml`."
        )
    return layers


class AppliedMasks:
    """Masks in force; `restore`, or the end of the `with` block, puts every weight back bit for bit."""

    def __init__(self) -> None:
        self._saved: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def zero(self, weight: Tensor, mask: Tensor) -> None:
        """Zero the masked weights of one layer, and remember all of them."""
        self._saved.append((weight, weight.clone()))
        weight.masked_fill_(mask.to(weight.device), 0.0)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the weights back; a second call changes nothing."""
        # The last first: a layer that came twice is then as it was before the first time.
        for weight, values in reversed(self._saved):
            weight.copy_(values)
        self._saved = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()


def apply_masks(model: PreTrainedModel, masks: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> AppliedMasks:
    """Zero the masked weights: at once and for good, or until the end of a `with` block.

    Meanwhile a copy of the masked layers is kept on the model's device. An error leaves the model as it was.

    Args:
        model: A causal language model; sharded (FSDP2) ones too.
        masks: What goes, by the linear layer's name; of a sharded model in this rank's rows. Pairs are taken one by
            one, so that a generator never holds more than one mask.

    Returns:
        A context manager that restores; ignore it to compress for good.

    Shape: each mask (O, I) bool.
    Raises:
        ValueError: A name that is no linear layer, or a mask of another shape.
    """
    applied = AppliedMasks()
    try:
        for name, mask in masks.items() if isinstance(masks, Mapping) else masks:
            layer = _find(model, name)
            weight, _ = own_rows(weight_of(layer))
            if mask.shape != weight.shape or mask.dtype != torch.bool:
                raise ValueError(
                    f"`masks` of {name} must be bool of shape {tuple(weight.shape)}, got {mask.dtype} of "
                    f"{tuple(mask.shape)}."
                )
            applied.zero(weight, mask)
    except BaseException:
        applied.restore()
        raise
    return applied


def _find(model: PreTrainedModel, name: str) -> nn.Module:
    try:
        found = model.get_submodule(name)
    except AttributeError:
        found = None
    if not isinstance(found, nn.Module) or not is_linear(found):
        raise ValueError(f"`masks` must name linear layers of the model, got {name!r}.")
    return found
