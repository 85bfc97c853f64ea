"""Save a pruned or compressed model as a Hugging Face directory that says what was done."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning.files import write_json
from sparc3_lightning.models.hf_directory import save_hf_directory
from sparc3_lightning.pruning.apply import UNCHECKED, apply_masks, apply_recipe, check_base_model
from sparc3_lightning.pruning.card import CARD_FILE, compressed_card, model_card
from sparc3_lightning.pruning.recipe import COMPRESSION_FILE
from sparc3_lightning.pruning.weight_recipe import AnyRecipe
from sparc3_lightning.version import package_versions

_COMPRESSION_FORMAT = 1


def save_pruned_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: AnyRecipe,
    directory: str | Path,
    check_base: bool = True,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the model without the recipe's neurons or weights: weights, configs, tokenizer, recipe and model card.

    The model itself is as it was afterwards, bit for bit. Every rank must call; of a sharded model each writes files.

    Args:
        model: The recipe's base model, whole, replicated or sharded (FSDP2).
        tokenizer: Its tokenizer.
        recipe: What goes.
        directory: New directory.
        check_base: Refuse a model whose weights are not those that were scored: the card says that all others are the
            base model's. False for who knows that.
        dtype: Type of the written weights; default: the model's.

    Raises:
        ValueError: Another base model, one that was pruned already, or neurons or weights that the model lacks.
        FileExistsError: The directory holds something already.
    """
    if check_base:
        check_base_model(model, recipe, UNCHECKED)

    card = model_card(recipe, str(dtype or model.dtype).removeprefix("torch."))

    def describe(temporary: Path) -> None:
        recipe.save(temporary)
        card.save(temporary / CARD_FILE)

    with apply_recipe(model, recipe, check_base=False):
        save_hf_directory(model, tokenizer, directory, dtype, describe)


def save_compressed_model(
    model: PreTrainedModel,
    masks: Iterable[tuple[str, Tensor]],
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    base_model: Mapping[str, Any],
    share: float,
    options: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """Write the model without its masked weights: weights, configs, tokenizer, card and `compression.json`.

    The model itself is as it was afterwards, bit for bit. Every rank must call; of a sharded model each writes files.

    Args:
        model: The base model.
        masks: What goes; see `apply_masks`.
        tokenizer: The model's.
        directory: New directory.
        base_model: The base model's identity.
        share: Weights removed, of those of the layers compressed.
        options: How they were chosen.
        dtype: Type of the written weights; default: the model's.

    Raises:
        FileExistsError: The directory holds something already.
    """
    stored = str(dtype or model.dtype).removeprefix("torch.")
    content = {
        "format_version": _COMPRESSION_FORMAT,
        "base_model": base_model,
        "share": share,
        "options": options,
        "dtype": stored,
        "versions": package_versions(),
    }
    card = compressed_card(base_model, options, share=f"{share:.1%}", file=COMPRESSION_FILE, dtype=stored)

    def describe(temporary: Path) -> None:
        write_json(temporary / COMPRESSION_FILE, content)
        card.save(temporary / CARD_FILE)

    with apply_masks(model, masks):
        save_hf_directory(model, tokenizer, directory, dtype, describe)
