"""Write a model as a Hugging Face directory: whole or not at all, sharded ones too."""

import copy
import itertools
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning.distributed.owners import is_sharded
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.files import new_directory, read_json, write_text
from sparc3_lightning.models.checkpoint import CONFIG, NO_CODE, older_fields
from sparc3_lightning.models.hub import local_directory
from sparc3_lightning.models.identity import tokenizer_hash
from sparc3_lightning.models.load import TOKENIZER_FILES
from sparc3_lightning.models.sharding import stored_weights, write_weight_files

_TOKENIZER_CONFIG = "tokenizer_config.json"
# transformers 5 alone knows this class; it and what came before it read the other.
_NEW_CLASS, _KNOWN_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
_NEW_FIELDS = ("backend", "is_local", "local_files_only")


def save_hf_directory(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: str | Path,
    dtype: torch.dtype | None = None,
    describe: Callable[[Path], object] | None = None,
) -> None:
    """Write the model as it is, as `AutoModelForCausalLM.from_pretrained` reads it.

    Every rank must call; of a sharded model each writes files.

    Args:
        model: The model, whole, replicated or sharded (FSDP2).
        tokenizer: Its tokenizer.
        directory: New directory.
        dtype: Type of the written weights; default: the model's.
        describe: Writes what else the directory shall hold, such as a recipe or a model card; on rank 0.

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


def write_config(config: PreTrainedConfig, directory: Path, dtype: torch.dtype, architecture: str) -> None:
    """Write config.json with the keys of transformers 5 and of what came before it.

    Args:
        config: The model's.
        directory: Where.
        dtype: Type of the saved weights.
        architecture: Name of the model's class.
    """
    saved = copy.deepcopy(config)
    saved.dtype, saved.architectures = dtype, [architecture]
    saved.save_pretrained(directory)
    fields = read_json(directory / CONFIG)
    _write(directory / CONFIG, {**fields, "torch_dtype": fields["dtype"], **older_fields(fields)})


def _write(path: Path, fields: dict[str, Any]) -> None:
    write_text(path, json.dumps(fields, indent=2, sort_keys=True) + "\n")


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write a tokenizer: the files it was loaded from as they are, or one made or changed since in readable form.

    Args:
        tokenizer: From a directory, the hub or code.
        directory: Where.
    """
    name = tokenizer.name_or_path
    home = local_directory(name, None, _TOKENIZER_CONFIG) if name else None
    if home is not None and _is_as_loaded(tokenizer, home):
        for file in home.iterdir():
            if file.is_file() and any(fnmatch(file.name, pattern) for pattern in TOKENIZER_FILES):
                shutil.copyfile(file, directory / file.name)
        return
    tokenizer.save_pretrained(directory)
    fields = read_json(directory / _TOKENIZER_CONFIG)
    if fields.get("tokenizer_class") == _NEW_CLASS:
        fields["tokenizer_class"] = _KNOWN_CLASS
    if isinstance(fields.get("extra_special_tokens"), list):
        fields["additional_special_tokens"] = fields.pop("extra_special_tokens")
    _write(directory / _TOKENIZER_CONFIG, {name: value for name, value in fields.items() if name not in _NEW_FIELDS})


def _is_as_loaded(tokenizer: PreTrainedTokenizerBase, home: Path) -> bool:
    return _content(tokenizer) == _content(AutoTokenizer.from_pretrained(home, **NO_CODE))


def _content(tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return (
        tokenizer_hash(tokenizer),
        None if backend is None else backend.to_str(),
        tokenizer.chat_template,
        tokenizer.model_max_length,
        tokenizer.padding_side,
        tokenizer.truncation_side,
    )
