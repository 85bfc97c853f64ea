"""Load a causal language model and its tokenizer from the hub, a directory, or a bare config."""

from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sparc3_lightning.families import get_family

DtypeName = Literal["auto", "float32", "bfloat16", "float16", "float64"]

_HELP = (
    "Either accept its licence on its hub page and log in (HF_TOKEN, or `hf auth login`), or copy it to a directory "
    "and set `model.model` to that directory; without a network, HF_HOME must name a cache that holds it."
)

# transformers still reads these names, and turns them into `rope_parameters`.
_LEGACY_FIELDS = ("rope_theta", "rope_scaling")


def torch_dtype(name: DtypeName) -> torch.dtype | Literal["auto"]:
    """The dtype of a name; "auto" stays, for the checkpoint's own."""
    return "auto" if name == "auto" else getattr(torch, name)


# Code that comes with a model never runs; unless told so, transformers asks at the terminal whether it may.
_NO_CODE = {"trust_remote_code": False}


def context_length(model: PreTrainedModel) -> int:
    """Longest text the model was made for, in tokens."""
    return int(model.config.get_text_config().max_position_embeddings)


def hub_error(what: str, name: str, error: Exception) -> OSError:
    """What to tell of a model or tokenizer that is not where its name says.

    Args:
        what: "model" or "tokenizer".
        name: Hub id or directory.
        error: What went wrong.
    """
    # A hub id has at most one slash.
    if Path(name).is_absolute() or name.startswith((".", "~")) or Path(name).is_dir() or name.count("/") > 1:
        if not Path(name).is_dir():
            at = "" if Path(name).is_absolute() else f" (from {Path.cwd()})"
            return FileNotFoundError(
                f"the {what} {name!r} cannot be loaded: no such directory{at}. Set `model.{what}`."
            )
        return OSError(f"the {what} in {name!r} cannot be loaded: {str(error).splitlines()[0]} Set `model.{what}`.")
    return OSError(f"the {what} {name!r} cannot be loaded: {str(error).splitlines()[0]} {_HELP}")


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer by hub id or directory.

    Raises:
        OSError: It cannot be reached or is not there; says what to do.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, revision=revision, **_NO_CODE)
    except (OSError, ValueError) as error:
        raise hub_error("tokenizer", name, error) from error
    return tokenizer


def load_model(
    name: str, revision: str | None = None, dtype: DtypeName = "auto", attn_implementation: str | None = None
) -> PreTrainedModel:
    """Load a causal language model by hub id or directory; weights only from safetensors.

    Raises:
        OSError: It cannot be reached or is not there; says what to do.
        ValueError: Its `model_type` is of no known family; found before any weight is read. Or weights are damaged or
            missing.
    """
    config = load_config(name, revision)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=torch_dtype(dtype),
            attn_implementation=attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            **_NO_CODE,
        )
    except SafetensorError as error:
        raise damaged(name, error) from error
    except OSError as error:
        raise hub_error("model", name, error) from error
    check_whole(name, sorted(found["missing_keys"]))
    model.config._commit_hash = config._commit_hash
    return cast(PreTrainedModel, model.eval())


def load_config(name: str, revision: str | None = None) -> PreTrainedConfig:
    """Load the config of a model by hub id or directory.

    Raises:
        OSError: It cannot be reached or is not there; says what to do.
        ValueError: Its `model_type` is of no known family.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(name, revision=revision, **_NO_CODE)
    except (OSError, ValueError) as error:
        raise hub_error("model", name, error) from error
    get_family(config.model_type)
    config._commit_hash = _commit(name, revision)
    return config


def _commit(name: str, revision: str | None) -> str | None:
    """The commit that a hub's model was fetched at, which a cache keeps as the name of its snapshot."""
    if Path(name).is_dir():
        return None
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None


def damaged(name: str, error: SafetensorError) -> ValueError:
    """What to tell of a weight file that cannot be read."""
    return ValueError(f"the weights of {name!r} cannot be read ({error}): a file is cut or damaged. Set `model.model`.")


def check_whole(name: str, missing: list[str]) -> None:
    """Refuse a checkpoint that lacks weights: transformers fills in random ones, and only logs it.

    Raises:
        ValueError: `missing` names any.
    """
    if missing:
        raise ValueError(
            f"the checkpoint {name!r} must hold all weights of its model, but lacks {len(missing)}, such as "
            f"{missing[0]}: random ones in their place would give scores that mean nothing. Set `model.model`."
        )


def build_model(
    config: dict[str, Any], vocab_size: int, dtype: DtypeName = "auto", attn_implementation: str | None = None
) -> PreTrainedModel:
    """A model with random weights, from the fields of its config; torch's seed decides them.

    Args:
        config: Fields of the Hugging Face config, with `model_type`; `vocab_size` may be left out.
        vocab_size: Of the tokenizer.
        dtype: Type of the weights; "auto" is float32.
        attn_implementation: Attention implementation.

    Raises:
        ValueError: No or an unknown `model_type`, unknown fields or ones that do not fit together, or a vocabulary
            smaller than the tokenizer's.
    """
    fields = {"vocab_size": vocab_size, **config}
    family = get_family(str(fields.pop("model_type", "")))
    if fields["vocab_size"] < vocab_size:
        raise ValueError(
            f"`vocab_size` must be at least {vocab_size} (the tokenizer's), got {fields['vocab_size']}. "
            "Set `model.config.vocab_size`."
        )
    known = {*AutoConfig.for_model(family.model_type).to_dict(), *_LEGACY_FIELDS}
    if unknown := sorted(set(fields) - known):
        raise ValueError(
            f"`config` must hold fields of a {family.model_type} config, got {unknown}. Set `model.config`."
        )
    try:
        built = AutoConfig.for_model(family.model_type, **fields)
    except StrictDataclassError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"`config` must describe a {family.model_type} model: {reason} Set `model.config`.") from error
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        built,
        dtype=torch.float32 if dtype == "auto" else torch_dtype(dtype),
        attn_implementation=attn_implementation,
    )
    return model.eval()
