"""The card of a pruned or compressed model: what was removed from what, how to do it again, what is not promised."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from sparc3_lightning.pruning.recipe import RECIPE_FILE, WEIGHT_RECIPE_FILE, describe_option
from sparc3_lightning.pruning.weight_recipe import AnyRecipe, WeightRecipe

CARD_FILE = "README.md"

_HEAD = """---
{{ card_data }}
---

"""
_NEURONS = """# {{ name }}{{ title }}

This is `{{ base }}`{% if revision %} (revision `{{ revision }}`){% endif %} with {{ num_neurons }} feed-forward
neurons {{ done }}, in {{ num_layers }} layers. `{{ recipe_file }}` lists them, with their scores and factors."""
_WEIGHTS = """# {{ name }} without {{ num_weights }} weights

This is `{{ base }}`{% if revision %} (revision `{{ revision }}`){% endif %} with {{ num_weights }} single weights of
{{ num_modules }} linear layers set to zero. `{{ recipe_file }}` counts them by layer; the safetensors file beside
it names each: row * I + column of a weight (O, I)."""
_STORED = """
{%- if is_checked %} Every other weight is the base
model's: before anything was changed, the hash of all weights was the one that `{{ recipe_file }}` holds.
{%- else %} Whether every other weight is
the base model's was not checked: `{{ recipe_file }}` holds no hash of its weights.
{%- endif %}

- Weights are stored as {{ dtype }}. The base model's may be of another type: `sparc3 apply` keeps that, or takes
  `--dtype`.
"""
_OF_NEURONS = """
{%- if num_dampened < num_neurons %}
- A removed neuron is zeroed: its rows in the layers that make it, biases included, and its column in the one that reads
  it.
{%- endif %}
{%- if num_dampened %}
- A dampened neuron's column in the layer that reads it is multiplied by the neuron's factor, which `{{ recipe_file }}`
  holds; its other weights are the base model's.
{%- endif %}
"""
_MADE = """- Shapes are unchanged: it loads like the base model, and it is neither smaller nor faster.

## How the {{ what }} were found
{% for name, value in options %}
- {{ name }}: {{ value }}
{%- endfor %}

## How to make it again

    sparc3 apply --recipe {{ recipe_file }} --model {{ base if is_on_hub else "BASE_MODEL_DIRECTORY" }} --output OUTPUT

## Limits

The {{ what }} carry the behaviour on the reference set named above. This makes it rarer at best; it does not
make the model safe, and it can change other behaviour. Measure both on your own text before you rely on it.

## Licence

The base model's.
"""
_COMPRESSED = """# {{ name }}, {{ share }} of the weights of its linear layers removed

This is `{{ base }}`{% if revision %} (revision `{{ revision }}`){% endif %} with {{ share }} of the weights of every
linear layer but lm_head set to zero. `{{ file }}` says how they were chosen, and names the hash of the base model's
weights. The weights that are not zero are the base model's, stored as {{ dtype }}.

Shapes are unchanged: it loads like the base model, and it is neither smaller nor faster without kernels for sparse
weights.

## How the weights were chosen
{% for name, value in options %}
- {{ name }}: {{ value }}
{%- endfor %}

## Limits

Perplexity hides much of what compression costs. Measure the model on your own task before you rely on it.

## Licence

The base model's.
"""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def _is_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def model_card(recipe: AnyRecipe, dtype: str) -> ModelCard:
    """The card of the recipe's base model with the recipe applied; made without a network.

    Args:
        recipe: What was removed. Where it holds the hash of the base model's weights, these have been compared.
        dtype: Type of the saved weights.
    """
    common = {"is_checked": recipe.base_model.get("weight_hash") is not None, "dtype": dtype, "what": recipe.what}
    if isinstance(recipe, WeightRecipe):
        counts = {"num_weights": f"{recipe.num:,}", "num_modules": recipe.num_layers}
        common |= {"recipe_file": WEIGHT_RECIPE_FILE, **counts}
        return _card_of(recipe.base_model, _WEIGHTS + _STORED + _MADE, recipe.options, **common)
    number = recipe.num
    return _card_of(
        recipe.base_model,
        _NEURONS + _STORED + _OF_NEURONS + _MADE,
        recipe.options,
        num_neurons=number,
        num_dampened=recipe.num_dampened,
        title=f", {number} neurons {recipe.done}" if recipe.num_dampened else f" without {number} neurons",
        done=recipe.done,
        num_layers=recipe.num_layers,
        recipe_file=RECIPE_FILE,
        **common,
    )


def compressed_card(base_model: Mapping[str, Any], options: Mapping[str, Any], **fields: str) -> ModelCard:
    """The card of a base model without some of its weights; made without a network.

    Args:
        base_model: Its identity.
        options: How the weights were chosen.
        **fields: `share` of the weights removed, the `file` that says how, and the `dtype` of the saved weights.
    """
    return _card_of(base_model, _COMPRESSED, options, **fields)


def _card_of(base_model: Mapping[str, Any], template: str, options: Mapping[str, Any], **fields: Any) -> ModelCard:
    """A card of what was made of a base model; a base model from a directory is named by that's last part only.

    Args:
        base_model: Identity of the base model.
        template: The card's text, without its head; it may name `name`, `base`, `is_on_hub`, `revision`, `options`, and
        options: How it was made, as pairs of words.
        **fields: What else the template names.
    """
    base = str(base_model.get("id", "base model"))
    is_on_hub = _is_hub_id(base)
    data = ModelCardData(
        base_model=base if is_on_hub else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        license="other",
        license_name="as-base-model",
        tags=["sparc3", "pruned"],
    )
    card: ModelCard = ModelCard.from_template(
        data,
        template_str=_HEAD + template,
        name=Path(base).name,
        base=base if is_on_hub else Path(base).name,
        is_on_hub=is_on_hub,
        revision=base_model.get("revision"),
        options=[(name.replace("_", " "), describe_option(value)) for name, value in options.items()],
        **fields,
    )
    return card
