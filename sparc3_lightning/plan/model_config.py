"""A model's config.json, from a directory, the hub's cache, or the fields in the YAML; nothing is downloaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparc3_lightning.files import read_json

CONFIG_FILE = "config.json"


def model_fields(model: Mapping[str, Any], model_config: Path | None) -> tuple[dict[str, Any], str]:
    """The fields of a model's config, and where they are from.

    Args:
        model: The `model` group of a composed config.
        model_config: A config.json, or a directory with one, in place of the one that the config names.

    Raises:
        OSError: It cannot be reached; says how to give it.
        ValueError: The config names no model.
    """
    if model_config is not None:
        path = model_config / CONFIG_FILE if model_config.is_dir() else model_config
        return _read(path), str(path)
    if model.get("config"):
        fields = dict(model["config"])
        return {"vocab_size": _vocabulary(model.get("tokenizer")), **fields}, "`model.config`"
    if not model.get("model"):
        raise ValueError(
            "the config must name a model, in `model.model` or `model.config`, got neither. Add `--config FILE`."
        )
    path = _path_of(str(model["model"]), model.get("revision"))
    return _read(path), str(path)


def _read(path: Path) -> dict[str, Any]:
    return dict(read_json(path, "model config"))


def _path_of(name: str, revision: str | None) -> Path:
    if Path(name).is_dir():
        return Path(name) / CONFIG_FILE
    # Light: it imports neither torch nor transformers.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, CONFIG_FILE, revision=revision)
    except HFValidationError:
        found = None
    if not isinstance(found, str):
        raise FileNotFoundError(
            f"the config.json of {name!r} is neither in a directory of that name nor in the hub's cache, and a plan "
            "downloads nothing. Add `--model_config FILE`: a config.json, such as configs/shapes/llama3_8b.json."
        )
    return Path(found)


def _vocabulary(tokenizer: object) -> int | None:
    """Tokens of a local tokenizer: of a model from random weights, the vocabulary unless told otherwise."""
    path = Path(str(tokenizer)) / "tokenizer.json"
    if not path.is_file():
        return None
    content = read_json(path, "tokenizer")
    added = [token["content"] for token in content.get("added_tokens", [])]
    vocabulary = content["model"]["vocab"]
    tokens = vocabulary if isinstance(vocabulary, dict) else [token for token, _ in vocabulary]
    return len({*tokens, *added})
