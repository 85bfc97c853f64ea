"""Apply a recipe or masks to a model, and restore it bit for bit."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sparc3_lightning.distributed.owners import is_split_by_columns, own_part, own_rows
from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.families.layers import is_linear, weight_of
from sparc3_lightning.models.identity import checkpoint_hash, weight_hash
from sparc3_lightning.pruning.recipe import Recipe


@dataclass(frozen=True)
class _Part:
    """What this rank holds of one parameter: all of it, or the rows (dim 0) or columns (dim 1) of neurons."""

    local: Tensor
    dim: int = 0
    indices: Tensor | None = None
    is_sharded: bool = False

    def read(self) -> Tensor:
        return self.local.clone() if self.indices is None else self.local.index_select(self.dim, self.indices)

    def write(self, values: Tensor) -> None:
        if self.indices is None:
            self.local.copy_(values)
        else:
            self.local.index_copy_(self.dim, self.indices, values)


def _local_part(parameter: Tensor, dim: int, indices: Sequence[int]) -> _Part:
    """The part of the parameter's rows or columns that this rank holds; all of it where nothing is sharded."""
    local, own = own_part(parameter, dim)
    positions = torch.tensor(indices, device=local.device)
    inside = (positions >= own.start) & (positions < own.stop)
    return _Part(local, dim, positions[inside] - own.start, isinstance(parameter, DTensor))


def _parts(model: PreTrainedModel, recipe: Recipe, only_output: bool = False) -> Iterator[_Part]:
    """What a neuron consists of: its rows of up and gate (and their biases), column i of down; or this column."""
    family = get_family(model.config.model_type)
    blocks = family.block_modules(model)
    for layer, indices in recipe.per_layer().items():
        for name, first in [] if only_output else family.rows(model.config):
            linear, rows = blocks[layer].get_submodule(name), [first + index for index in indices]
            yield _local_part(weight_of(linear), 0, rows)
            if isinstance(linear.bias, Tensor):
                yield _local_part(linear.bias, 0, rows)
        yield _local_part(weight_of(blocks[layer].get_submodule(family.down)), 1, indices)


class Applied:
    """Weights that were changed; `restore`, or the end of the `with` block, puts every one back bit for bit."""

    def __init__(self) -> None:
        self._saved: list[tuple[_Part, Tensor]] = []

    @torch.no_grad()
    def scale(self, part: _Part, factor: float) -> None:
        """Multiply a part by a factor, and remember it; by 0 it becomes zero, whatever it holds."""
        values = part.read()
        self._saved.append((part, values))
        part.write(values * factor if factor else torch.zeros_like(values))

    @torch.no_grad()
    def zero(self, weight: Tensor, mask: Tensor) -> None:
        """Zero the masked weights of one layer, and remember all of them.

        Shape: this rank's rows of the weight, and their mask: (O, I).
        """
        whole = _Part(weight)
        self._saved.append((whole, whole.read()))
        weight.masked_fill_(mask.to(weight.device), 0.0)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the weights back; a second call changes nothing."""
        # The last first: what was changed twice is then as it was before the first time.
        for part, values in reversed(self._saved):
            part.write(values)
        self._saved = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()


@contextmanager
def _all_or_nothing() -> Iterator[Applied]:
    """Weights that are being changed; an error leaves the model as it was."""
    applied = Applied()
    try:
        yield applied
    except BaseException:
        applied.restore()
        raise


@torch.no_grad()
def apply_recipe(model: PreTrainedModel, recipe: Recipe, check_base: bool = True, factor: float = 0.0) -> Applied:
    """Zero the recipe's neurons, or dampen them: at once and for good, or until the end of a `with` block.

    Args:
        model: The base model of the recipe; sharded (FSDP2) models too, then every rank must call.
        recipe: What goes.
        check_base: Refuse a model whose weights are not those that were scored. A model in which all these neurons
            are zero already passes: applying twice changes nothing.
        factor: What a neuron's output is multiplied by (column i of down, exactly as if its activation were); at 0 rows
            of up and gate go too. Other factors applied twice act twice.

    Returns:
        A context manager that restores; ignore it to prune for good.

    Raises:
        ValueError: Another base model, neurons that the model does not have, a factor outside [0, 1), or no `Recipe`.

    Source: method.md, section 3; dampening: Suau et al., ICML 2024 (AurA), Sec. 3.
    """
    if not 0.0 <= factor < 1.0:
        raise ValueError(f"`factor` must be at least 0 and below 1, got {factor}.")
    if not isinstance(recipe, Recipe):
        raise ValueError(f"`recipe` must be a Recipe, got {recipe!r}. Read a file with `Recipe.load(path)`.")
    if check_base:
        check_recipe(model, recipe)
    _check_range(model, recipe)
    with _all_or_nothing() as applied:
        for part in _parts(model, recipe, only_output=factor > 0):
            applied.scale(part, factor)
    return applied


def apply_masks(model: PreTrainedModel, masks: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> Applied:
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
    with _all_or_nothing() as applied:
        for name, mask in masks.items() if isinstance(masks, Mapping) else masks:
            weight, _ = own_rows(weight_of(_find(model, name)))
            if mask.shape != weight.shape or mask.dtype != torch.bool:
                raise ValueError(
                    f"`masks` of {name} must be bool of shape {tuple(weight.shape)}, got {mask.dtype} of "
                    f"{tuple(mask.shape)}."
                )
            applied.zero(weight, mask)
    return applied


def _find(model: PreTrainedModel, name: str) -> nn.Module:
    try:
        found = model.get_submodule(name)
    except AttributeError:
        found = None
    if not isinstance(found, nn.Module) or not is_linear(found):
        raise ValueError(f"`masks` must name linear layers of the model, got {name!r}.")
    return found


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


@torch.no_grad()
def check_recipe(model: PreTrainedModel, recipe: Recipe) -> None:
    """Refuse what `apply_recipe` refuses, and change nothing. Of a sharded model every rank must call.

    Raises:
        ValueError: Another base model, or neurons that the model does not have.
    """
    _check_range(model, recipe)
    if not _all_zero(list(_parts(model, recipe))):
        check_base_model(model, recipe)


def zero_neurons_(model: PreTrainedModel, recipe: Recipe) -> None:
    """Zero the recipe's neurons again, after an optimizer step of recovery tuning."""
    with torch.no_grad():
        for part in _parts(model, recipe):
            Applied().scale(part, 0.0)


def _all_zero(parts: list[_Part]) -> bool:
    nonzero = torch.stack([part.read().count_nonzero() for part in parts]).sum()
    if parts[0].is_sharded:
        torch.distributed.all_reduce(nonzero)
    return not nonzero.item()


def _check_range(model: PreTrainedModel, recipe: Recipe) -> None:
    family = get_family(model.config.model_type)
    num_layers, num_neurons = family.num_layers(model.config), family.num_neurons(model.config)
    if not recipe.neurons:
        raise ValueError("`recipe` must name at least one neuron, got none.")
    for layer, index in recipe.neurons:
        if not (0 <= layer < num_layers and 0 <= index < num_neurons):
            raise ValueError(
                f"`recipe` must name neurons of {num_layers} layers x {num_neurons}, got layer {layer}, index {index}: "
                f"it was made for {recipe.base_model.get('id', 'another model')}."
            )


def check_base_model(model: PreTrainedModel, recipe: Recipe) -> None:
    """Refuse a model whose weights are not those that were scored, even if it lacks the recipe's neurons already.

    A recipe made by hand may hold no hash: then nothing is checked.

    Raises:
        ValueError: Another model, or the base model after it was pruned or tuned.
    """
    expected = recipe.base_model.get("weight_hash")
    if expected is None:
        return
    found = weight_hash(model)
    if expected not in (found, checkpoint_hash(model, found)):
        pruned = " It lacks these neurons already." if _all_zero(list(_parts(model, recipe))) else ""
        raise ValueError(
            f"`recipe` belongs to {recipe.base_model.get('id')} (weight hash {expected[:12]}), got a model with weight "
            f"hash {found[:12]}: {model.name_or_path or 'unnamed'}.{pruned} Load the base model, or pass "
            "`check_base=False`."
        )
