"""What is said about a wrong config: by jsonargparse, less what nobody meant; of keys that an earlier version had."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import partial
from inspect import signature
from itertools import takewhile
from pkgutil import resolve_name
from textwrap import shorten
from typing import Any

OLD_SETS = "data.reference_sets"
_OLD_SETS_NOW = "write its general sets under `data.general` and the behaviour's under `data.behaviours`"
_NAMED_ROLES = ("PruningCallback", "BaselineCallback", "SweepCallback", "CompressionCallback")
_TYPES = "Subtypes: ["
_MOST_OF_A_VALUE = 200
_NOISE = (
    "Does not validate against",
    _TYPES,
    "Errors:",
    "Given value",
    "Expected a <class",
    "Expected a path but",
)
# What is said of a class in a list, which is no single one, beside what is wrong with it.
_PROBLEM = "Problem with given class_path"
_NO_SUCH_CLASS = ("Not a valid subclass of", "Subclass types expect", "a class path (str)", "a dict with")
# What is said of one class where several by name were given, or the other way round, beside what is wrong with these.
_OTHER_FORM = ("Expected a dot import path string", "Expected an instantiatable class")


def short_message(message: str) -> str:
    """Keep the lines that say what is wrong and where.

    An option of type `X | None` that holds a mistake is reported as no X, and why, and also as no None, with all of its
    value. Only the why helps; where there is no other, what was expected of the innermost key, and what came.

    Args:
        message: As jsonargparse gives it.
    """
    if f"--{OLD_SETS}" in message:
        return f"`--{OLD_SETS}` is a key of an earlier version: {_OLD_SETS_NOW}."
    kept: list[str] = []
    vague = _NO_SUCH_CLASS if _PROBLEM in message else ()
    lines = [line for line in message.splitlines() if not _begins(line, vague)]
    problems = {_indent(line) for line in lines if _begins(line, (_PROBLEM,))}
    lines = [line for line in lines if not (_begins(line, _OTHER_FORM) and _indent(line) in problems)]
    for number, line in enumerate(lines, start=1):
        if not _is_noise(line) and line not in kept:
            kept.append(line)
        if line.lstrip(" -").startswith("Parser key"):
            below = list(takewhile(partial(_is_deeper, than=line), lines[number:]))
            kept += _reason(below) if all(map(_is_noise, below)) else []
    return "\n".join(kept).strip().removeprefix("- ") or message


def old_keys(config: Any) -> str:
    """What to write for the keys of an earlier version that a config holds; empty where it holds none.

    Args:
        config: As its YAML reads.
    """
    groups = config if isinstance(config, dict) else {}
    data, trainer = (group if isinstance(group := groups.get(name), dict) else {} for name in ("data", "trainer"))
    roles, cells = [], ""
    for callback in (one for key in ("callbacks", "callbacks+") for one in _dicts(trainer.get(key))):
        name = str(callback.get("class_path")).rpartition(".")[2]
        options = _dicts(callback.get("init_args")) if name in _NAMED_ROLES else []
        roles += [f"`{name}.init_args.{key}`" for one in options for key in ("general", "behaviour") if key in one]
        if name == "SweepCallback" and any("cells" in one for one in options):
            cells = "`SweepCallback.init_args.cells`: name the directory under `model.trials_dir`"
    instead = [f"`{OLD_SETS}`: {_OLD_SETS_NOW}"] if "reference_sets" in data else []
    instead += [f"{', '.join(roles)}: leave out, `data` says it"] if roles else []
    return "; ".join([*instead, *[cells] * bool(cells)])


def did_you_mean(message: str, keys: Iterable[str]) -> str:
    """The key that was meant, as a sentence; empty where the message is about something else, or nothing is close.

    Args:
        message: As jsonargparse gives it.
        keys: All keys that there are.
    """
    named = re.search(r"does not accept option '([\w.]+)|unrecognized arguments: --([\w.]+)", message)
    parts, known = ((named[1] or named[2]).split(".") if named else []), [key.split(".") for key in keys]
    for number, part in enumerate(parts):
        there = {key[number] for key in known if len(key) > number and key[:number] == parts[:number]}
        if there and part not in there:
            close = get_close_matches(part, there, n=1)
            return f". Did you mean `{'.'.join([*parts[:number], *close])}`?" if close else ""
    return _of_class(message)


def _of_class(message: str) -> str:
    """The argument that was meant, of the class that refuses one."""
    found = re.search(rf"{_PROBLEM} '([\w.]+)':\s+Option '(\w+)' is not accepted", message)
    close = get_close_matches(found[2], signature(resolve_name(found[1])).parameters, n=1) if found else []
    return f". Did you mean `{close[0]}`?" if close else ""


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]


def _begins(line: str, beginnings: tuple[str, ...]) -> bool:
    return line.strip().removeprefix("- ").startswith(beginnings)


def _is_noise(line: str) -> bool:
    return not line.strip() or _begins(line, _NOISE)


def _is_deeper(line: str, than: str) -> bool:
    return _indent(line) > _indent(than)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _reason(lines: list[str]) -> list[str]:
    """What was expected and what came, of a key of several types in one line."""
    types = next((line for line in lines if line.lstrip().startswith(_TYPES)), None)
    if types is None:
        return lines[:1]
    value = next((line.partition(": ")[2] for line in reversed(lines) if line.lstrip().startswith("Given value:")), "")
    named = re.sub(r"<class '([\w.]+)'>", r"\1", types).replace("NoneType", "None")
    return [f"{named.replace(_TYPES, 'Expected one of [')}. Got value: {shorten(value, _MOST_OF_A_VALUE)}"]
