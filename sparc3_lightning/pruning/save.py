"""Save a model, pruned or trained, as a Hugging Face directory: whole or not at all, sharded models too."""

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning.distributed.owners import is_sharded
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.distributed.weight_files import stored_weights, write_weight_files
from sparc3_lightning.files import new_directory
from sparc3_lightning.pruning.apply import apply_recipe, check_base_model
from sparc3_lightning.pruning.base_files import write_config, write_tokenizer
from sparc3_lightning.pruning.card import CARD_FILE, model_card
from sparc3_lightning.pruning.recipe import RECIPE_FILE, Recipe


def save_pruned_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    directory: str | Path,
    check_base: bool = True,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the model without the recipe's neurons: weights, configs, tokenizer, recipe and model card.

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
        ValueError: Another base model, one that was pruned already, or neurons that the model does not have.
        FileExistsError: The directory holds something already.
    """
    if check_base:
        check_base_model(model, recipe)

    card = model_card(recipe, str(dtype or model.dtype).removeprefix("torch."))
    with apply_recipe(model, recipe, check_base=False):
        save_hf_directory(
            model, tokenizer, directory, recipe, dtype, describe=lambda temporary: card.save(temporary / CARD_FILE)
        )


def save_hf_directory(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: str | Path,
    recipe: Recipe | None = None,
    dtype: torch.dtype | None = None,
    describe: Callable[[Path], object] | None = None,
) -> None:
    """Write the model as it is, as `AutoModelForCausalLM.from_pretrained` reads it.

    Every rank must call; of a sharded model each writes files.

    Args:
        model: The model, whole, replicated or sharded (FSDP2).
        tokenizer: Its tokenizer.
        directory: New directory.
        recipe: A recipe whose neurons the model lacks already; written beside it.
        dtype: Type of the written weights; default: the model's.
        describe: Writes what else the directory shall hold, such as a model card; on rank 0.

    Raises:
        FileExistsError: The directory holds something already.
    """
    dtype = dtype or model.dtype
    sharded = is_sharded(model)
    # Only rank 0's stack holds the directory: it is renamed, or after any error removed, once.
    with ExitStack() as stack:
        temporary = from_rank_zero(lambda: stack.enter_context(new_directory(Path(directory))))

        def write() -> None:
            with _valid_generation_config(model):
                if not sharded:
                    weights = {name: weight.to(dtype) for name, weight in stored_weights(model).items()}
                    model.save_pretrained(temporary, state_dict=weights)
                model.generation_config.save_pretrained(temporary)
            write_config(model.config, temporary, dtype, type(model).__name__.removeprefix("FSDP"))
            write_tokenizer(tokenizer, temporary)
            if recipe is not None:
                recipe.save(temporary / RECIPE_FILE)
            if describe is not None:
                describe(temporary)

        from_rank_zero(write)
        if sharded:
            write_weight_files(model, temporary, dtype)
        from_rank_zero(stack.close)


def free_path(path: Path) -> Path:
    """`path`, or the first of `path_1`, `path_2`, ... that is not there: what took days to make is never refused."""
    names = (path if number == 0 else path.with_name(f"{path.name}_{number}") for number in itertools.count())
    return next(name for name in names if not name.exists())


@contextmanager
def _valid_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """transformers refuses to save an invalid generation config, and with it a model that may have cost days."""
    original = model.generation_config
    sampling = copy.deepcopy(original)
    # The usual case: a temperature or top-p without sampling.
    sampling.do_sample = True
    candidates = (original, sampling, GenerationConfig.from_model_config(model.config), GenerationConfig())
    model.generation_config = next(candidate for candidate in candidates if _can_be_saved(candidate))
    if model.generation_config is not original:
        changed = "`do_sample` is true in" if model.generation_config is sampling else "defaults are in"
        warnings.warn(f"the model's generation config is not valid: {changed} the saved one.", stacklevel=2)
    try:
        yield
    finally:
        model.generation_config = original


def _can_be_saved(config: GenerationConfig) -> bool:
    with TemporaryDirectory() as directory:
        try:
            config.save_pretrained(directory)
        except ValueError:
            return False
    return True
