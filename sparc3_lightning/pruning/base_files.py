"""Config and tokenizer of a saved model, so that whatever reads its base model reads it too."""

import copy
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from sparc3_lightning.checkpoint import CONFIG, NO_CODE
from sparc3_lightning.files import read_json, write_text
from sparc3_lightning.hub import local_directory
from sparc3_lightning.identity import tokenizer_hash
from sparc3_lightning.models import TOKENIZER_FILES
from sparc3_lightning.rope import older_fields

_TOKENIZER_CONFIG = "tokenizer_config.json"
# transformers 5 alone knows this class; it and what came before it read the other.
_NEW_CLASS, _KNOWN_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
_NEW_FIELDS = ("backend", "is_local", "local_files_only")


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
