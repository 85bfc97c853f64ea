"""YAML files and `--key value` options put together as LightningCLI does, without building anything."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from sparc3_lightning.files import load_yaml

GROUPS = ("seed_everything", "trainer", "model", "data", "ckpt_path")
# These options are dicts, not classes: a later file replaces them as a whole. Under `data`, an entry that both have is
# merged; `model.config` is plain values.
_REPLACED = {*(("data", role) for role in ("general", "behaviours", "contrast", "price")), ("model", "config")}


def compose(parts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Put a config together; what comes later counts.

    Args:
        parts: ("config", FILE) and (KEY, VALUE), such as ("model.dtype", "bfloat16"), in the order of the command line.

    Raises:
        OSError: A file cannot be read.
        ValueError: It holds no config.
    """
    config: dict[str, Any] = {}
    for key, value in parts:
        if key == "config":
            config = _merge(config, _read(Path(value)), ())
        else:
            config = _merge(config, _nested(key.split("."), load_yaml(value, f"`--{key}`")), (), is_option=True)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_yaml(path.read_text(encoding="utf-8"), f"`--config`: {path}")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"`--config`: no such file: {path} (from {Path.cwd()}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"`--config`: {path} must be UTF-8 text: {error}.") from error
    if not isinstance(content, dict) or not set(content).intersection(GROUPS):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"`--config`: {path} must be the YAML of a run ({', '.join(GROUPS)}), got {found}.")
    return dict(content)


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _merge(old: Any, new: Any, path: tuple[str, ...], is_option: bool = False) -> Any:
    if isinstance(new, str) and _is_class(old) and path[-1:] == ("strategy",):
        return new
    if not isinstance(new, dict):
        return deepcopy(new)
    if isinstance(old, str) and path[-1:] == ("strategy",):
        old = {"class_path": old}
    old = old if isinstance(old, dict) else {}
    keeps = is_option or path not in _REPLACED
    merged = dict(old) if keeps else {}
    for key, value in new.items():
        if key.endswith("+"):  # appended to a list
            name = key[:-1]
            merged[name] = [*(old.get(name) or []), *(value if isinstance(value, list) else [value])]
        else:
            merged[key] = _merge(old.get(key), value, (*path, key), is_option)
    return merged


def _is_class(value: Any) -> bool:
    return isinstance(value, dict) and "class_path" in value


def class_and_options(value: Any) -> tuple[str, dict[str, Any]]:
    """Short name and `init_args` of what a config builds; of a plain name, the name."""
    if isinstance(value, dict):
        options = value.get("init_args") or {key: inner for key, inner in value.items() if key != "class_path"}
        return str(value.get("class_path", "")).rpartition(".")[2], dict(options)
    return str(value).rpartition(".")[2], {}
