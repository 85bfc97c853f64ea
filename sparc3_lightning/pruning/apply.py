"""Apply a recipe to a model, and restore it bit for bit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import PreTrainedModel

from sparc3_lightning.families import get_family
from sparc3_lightning.families.layers import weight_of
from sparc3_lightning.identity import checkpoint_hash, weight_hash
from sparc3_lightning.pruning.recipe import Recipe


@dataclass(frozen=True)
class _Slice:
    """Rows (dim 0) or columns (dim 1) of one parameter that belong to neurons, as this rank holds them."""

    local: Tensor
    dim: int
    indices: Tensor
    is_sharded: bool

    def read(self) -> Tensor:
        return self.local.index_select(self.dim, self.indices)

    def write(self, values: Tensor) -> None:
        self.local.index_copy_(self.dim, self.indices, values)

    def zero(self) -> None:
        self.local.index_fill_(self.dim, self.indices, 0.0)

    def scale(self, factor: float) -> None:
        self.write(self.read() * factor)


def _local_slice(parameter: Tensor, dim: int, indices: Sequence[int]) -> _Slice:
    """The part of the parameter's rows or columns that this rank holds; all of it where nothing is sharded."""
    data = parameter.detach()
    positions = torch.tensor(indices, device=data.device)
    if isinstance(data, DTensor):
        shape, offset = compute_local_shape_and_global_offset(data.shape, data.device_mesh, data.placements)
        if any(isinstance(placement, Shard) and placement.dim == dim for placement in data.placements):
            inside = (positions >= offset[dim]) & (positions < offset[dim] + shape[dim])
            positions = positions[inside] - offset[dim]
        return _Slice(data.to_local(), dim, positions, is_sharded=True)
    return _Slice(data, dim, positions, is_sharded=False)


def _slices(model: PreTrainedModel, recipe: Recipe, only_output: bool = False) -> Iterator[_Slice]:
    """What a neuron consists of: row i of up and gate (and their biases), column i of down; or this column."""
    family = get_family(model.config.model_type)
    blocks = family.block_modules(model)
    for layer, indices in recipe.per_layer().items():
        for part in (family.up, family.gate):
            if part is not None and not only_output:
                linear = blocks[layer].get_submodule(part)
                yield _local_slice(weight_of(linear), 0, indices)
                if isinstance(linear.bias, Tensor):
                    yield _local_slice(linear.bias, 0, indices)
        yield _local_slice(weight_of(blocks[layer].get_submodule(family.down)), 1, indices)


class AppliedRecipe:
    """A recipe in force; `restore`, or the end of the `with` block, puts every weight back bit for bit."""

    def __init__(self, slices: list[_Slice], factor: float = 0.0) -> None:
        self._saved = [(piece, piece.read()) for piece in slices]
        for piece in slices:
            piece.scale(factor) if factor else piece.zero()

    def restore(self) -> None:
        """Put the weights back; a second call changes nothing."""
        for piece, values in self._saved:
            piece.write(values)
        self._saved = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()


@torch.no_grad()
def apply_recipe(model: PreTrainedModel, recipe: Recipe, check_base: bool = True, factor: float = 0.0) -> AppliedRecipe:
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
    return AppliedRecipe(list(_slices(model, recipe, only_output=factor > 0)), factor)


@torch.no_grad()
def check_recipe(model: PreTrainedModel, recipe: Recipe) -> None:
    """Refuse what `apply_recipe` refuses, and change nothing. Of a sharded model every rank must call.

    Raises:
        ValueError: Another base model, or neurons that the model does not have.
    """
    _check_range(model, recipe)
    if not _all_zero(list(_slices(model, recipe))):
        check_base_model(model, recipe)


def zero_neurons_(model: PreTrainedModel, recipe: Recipe) -> None:
    """Zero the recipe's neurons again, after an optimizer step of recovery tuning."""
    with torch.no_grad():
        for piece in _slices(model, recipe):
            piece.zero()


def _all_zero(slices: list[_Slice]) -> bool:
    nonzero = torch.stack([piece.read().count_nonzero() for piece in slices]).sum()
    if slices[0].is_sharded:
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
        pruned = " It lacks these neurons already." if _all_zero(list(_slices(model, recipe))) else ""
        raise ValueError(
            f"`recipe` belongs to {recipe.base_model.get('id')} (weight hash {expected[:12]}), got a model with weight "
            f"hash {found[:12]}: {model.name_or_path or 'unnamed'}.{pruned} Load the base model, or pass "
            "`check_base=False`."
        )
