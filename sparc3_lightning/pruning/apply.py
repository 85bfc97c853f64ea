"""Apply a recipe or masks to a model, and restore it bit for bit."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc3_lightning.distributed.owners import own_rows
from sparc3_lightning.lrp.modules import tied_modules
from sparc3_lightning.models.applied import Applied, Part, all_or_nothing, local_elements, local_part
from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.families.layers import is_linear, weight_of
from sparc3_lightning.models.identity import checkpoint_hash, weight_hash
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.weight_recipe import AnyRecipe, WeightRecipe

UNCHECKED = ", or pass `check_base=False`"
"""What a message adds where Python calls: a command line has no such option."""


def _parts(model: PreTrainedModel, recipe: AnyRecipe) -> Iterator[Part]:
    """Its weights; of neurons rows of up and gate (and their biases), and columns of down."""
    if isinstance(recipe, WeightRecipe):
        for name, gone in recipe.weights.items():
            yield local_elements(weight_of(_find(model, name, "recipe")), torch.from_numpy(gone).long())
        return
    family = get_family(model.config.model_type)
    blocks = family.block_modules(model)
    for layer, indices in recipe.per_layer().items():
        for name, first in family.rows(model.config):
            linear, rows = blocks[layer].get_submodule(name), [first + index for index in indices]
            yield local_part(weight_of(linear), 0, rows)
            if isinstance(linear.bias, Tensor):
                yield local_part(linear.bias, 0, rows)
        yield _columns(model, layer, indices)


def _columns(model: PreTrainedModel, layer: int, indices: Sequence[int]) -> Part:
    """What neurons of a layer write: their columns of down."""
    family = get_family(model.config.model_type)
    return local_part(weight_of(family.block_modules(model)[layer].get_submodule(family.down)), 1, indices)


def _split(recipe: Recipe, factor: float | None) -> tuple[Recipe, dict[int, dict[int, float]]]:
    """The neurons that go, and of each layer those that stay, with their factors."""
    own = recipe.factors or [0.0] * len(recipe.neurons)
    factors = own if factor is None else [factor] * len(recipe.neurons)
    gone, dampened = [], dict[int, dict[int, float]]()
    for (layer, index), scale in zip(recipe.neurons, factors, strict=True):
        if scale:
            dampened.setdefault(layer, {})[index] = scale
        else:
            gone.append((layer, index))
    return Recipe(gone), dampened


@torch.no_grad()
def apply_recipe(
    model: PreTrainedModel, recipe: AnyRecipe, check_base: bool = True, factor: float | None = None
) -> Applied:
    """Zero the recipe's neurons or weights, or dampen neurons: for good, or until the end of a `with` block.

    A neuron is zeroed where its factor is 0: its rows of up and gate, and column i of down. Otherwise its output is
    multiplied: column i of down alone, exactly as if its activation were. Single weights are zeroed.

    Args:
        model: The base model of the recipe; sharded (FSDP2) models too, then every rank must call.
        recipe: What goes.
        check_base: Refuse a model whose weights are not those that were scored. A model in which all that goes is zero
            already passes: applying twice changes nothing. One that was dampened is refused.
        factor: Every neuron's, in place of the recipe's own. Without `check_base`, or a hash in the recipe, factors
            above 0 that are applied twice act twice. Single weights have none.

    Returns:
        A context manager that restores; ignore it to prune for good.

    Raises:
        ValueError: Another base model, neurons or weights that the model does not have, a factor outside [0, 1) or of
            single weights, or no recipe.

    Source: method.md, section 3; dampening: Suau et al., ICML 2024 (AurA), Sec. 3.
    """
    if factor is not None and not 0.0 <= factor < 1.0:
        raise ValueError(f"`factor` must be at least 0 and below 1, got {factor}.")
    if not isinstance(recipe, AnyRecipe):
        raise ValueError(
            f"`recipe` must be a Recipe, got {recipe!r}. Read a file with `Recipe.load(path)`, or any kind "
            "of recipe with `load_recipe(path)`."
        )
    if isinstance(recipe, WeightRecipe) and factor:
        raise ValueError(f"`factor` must be None or 0 for a recipe of single weights, which go, got {factor}.")
    if check_base:
        check_recipe(model, recipe, UNCHECKED)
    _check_range(model, recipe)
    gone, dampened = (recipe, {}) if isinstance(recipe, WeightRecipe) else _split(recipe, factor)
    with all_or_nothing() as applied:
        for part in _parts(model, gone):
            applied.remove(part)
        for layer, factors in dampened.items():
            applied.scale(_columns(model, layer, list(factors)), torch.tensor([*factors.values()], dtype=torch.float64))
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
    with all_or_nothing() as applied:
        for name, mask in masks.items() if isinstance(masks, Mapping) else masks:
            weight, _ = own_rows(weight_of(_find(model, name, "masks")))
            if mask.shape != weight.shape or mask.dtype != torch.bool:
                raise ValueError(
                    f"`masks` of {name} must be bool of shape {tuple(weight.shape)}, got {mask.dtype} of "
                    f"{tuple(mask.shape)}."
                )
            applied.zero(weight, mask)
    return applied


def _find(model: PreTrainedModel, name: str, argument: str) -> nn.Module:
    try:
        found = model.get_submodule(name)
    except AttributeError:
        found = None
    if not isinstance(found, nn.Module) or not is_linear(found):
        raise ValueError(f"`{argument}` must name linear layers of the model, got {name!r}.")
    return found


@torch.no_grad()
def check_recipe(model: PreTrainedModel, recipe: AnyRecipe, otherwise: str = "") -> None:
    """Refuse what `apply_recipe` refuses, and change nothing. Of a sharded model every rank must call.

    Args:
        model: The base model of the recipe.
        recipe: What is to go.
        otherwise: See `check_base_model`.

    Raises:
        ValueError: Another base model, or neurons or weights that the model does not have.
    """
    _check_range(model, recipe)
    if not _all_zero(list(_parts(model, recipe))):
        check_base_model(model, recipe, otherwise)


def check_all_go(recipe: AnyRecipe) -> None:
    """Refuse a recipe that dampens, where its neurons are to be held at zero while the model is trained.

    Raises:
        ValueError: Neurons whose factor is above 0: no step could tell what was learnt from what was dampened.
    """
    if recipe.num_dampened:
        raise ValueError(
            f"`recipe` must remove every neuron to train without them, got {recipe.num_dampened} of "
            f"{recipe.num} with a factor above 0. Set `model.recipe` to one without factors; or write the "
            "dampened model (`sparc3 apply`) and train that, with `model.recipe: null`."
        )


def zero_again_(model: PreTrainedModel, recipe: AnyRecipe) -> None:
    """Zero what the recipe removes once more, after an optimizer step of recovery tuning.

    Raises:
        ValueError: A recipe that dampens.
    """
    check_all_go(recipe)
    with torch.no_grad():
        for part in _parts(model, recipe):
            Applied().remove(part)


def _all_zero(parts: list[Part]) -> bool:
    nonzero = torch.stack([part.read().count_nonzero() for part in parts]).sum()
    if parts[0].is_sharded:
        torch.distributed.all_reduce(nonzero)
    return not nonzero.item()


def _check_range(model: PreTrainedModel, recipe: AnyRecipe) -> None:
    if isinstance(recipe, WeightRecipe):
        _check_shapes(model, recipe)
        return
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


def _check_shapes(model: PreTrainedModel, recipe: WeightRecipe) -> None:
    if not recipe.weights:
        raise ValueError("`recipe` must name at least one weight, got none.")
    if tied := recipe.weights.keys() & {*tied_modules(model)}:
        raise ValueError(
            f"`recipe` must not name weights of {min(tied)}: here it is the input embedding, too, and was not scored."
        )
    for name in recipe.weights:
        found, expected = tuple(weight_of(_find(model, name, "recipe")).shape), recipe.shapes[name]
        if found != expected:
            raise ValueError(
                f"`recipe` must name weights of the model's {name}, which is {found}, got those of {expected}: it was "
                f"made for {recipe.base_model.get('id', 'another model')}."
            )


def check_base_model(model: PreTrainedModel, recipe: AnyRecipe, otherwise: str = "") -> None:
    """Refuse a model whose weights are not those that were scored, even if what the recipe removes is zero there.

    A recipe made by hand may hold no hash: then nothing is checked.

    Args:
        model: The base model of the recipe.
        recipe: What is to go.
        otherwise: What the caller can do but load the base model, for the message; on a command line nothing.

    Raises:
        ValueError: Another model, or the base model after it was pruned or tuned.
    """
    expected = recipe.base_model.get("weight_hash")
    if expected is None:
        return
    found = weight_hash(model)
    if expected not in (found, checkpoint_hash(model, found)):
        pruned = f" It lacks these {recipe.what} already." if _all_zero(list(_parts(model, recipe))) else ""
        raise ValueError(
            f"`recipe` belongs to {recipe.base_model.get('id')} (weight hash {expected[:12]}), got a model with weight "
            f"hash {found[:12]}: {model.name_or_path or 'unnamed'}.{pruned} Load the base model "
            f"(`model.model`){otherwise}."
        )
