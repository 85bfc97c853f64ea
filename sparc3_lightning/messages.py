"""What jsonargparse says about a wrong config, without the alternatives that nobody meant."""

import re
from functools import partial
from itertools import takewhile
from textwrap import shorten

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


def short_message(message: str) -> str:
    """Keep the lines that say what is wrong and where.

    An option of type `X | None` that holds a mistake is reported as no X, and why, and also as no None, with all of its
    value. Only the why helps; where there is no other, what was expected of the innermost key, and what came.

    Args:
        message: As jsonargparse gives it.
    """
    kept: list[str] = []
    vague = _NO_SUCH_CLASS if _PROBLEM in message else ()
    lines = [line for line in message.splitlines() if not _begins(line, vague)]
    for number, line in enumerate(lines, start=1):
        if not _is_noise(line) and line not in kept:
            kept.append(line)
        if line.lstrip(" -").startswith("Parser key"):
            below = list(takewhile(partial(_is_deeper, than=line), lines[number:]))
            kept += _reason(below) if all(map(_is_noise, below)) else []
    return "\n".join(kept).strip().removeprefix("- ") or message


def _begins(line: str, beginnings: tuple[str, ...]) -> bool:
    return line.strip().removeprefix("- ").startswith(beginnings)


def _is_noise(line: str) -> bool:
    return not line.strip() or _begins(line, _NOISE)


def _is_deeper(line: str, than: str) -> bool:
    return len(line) - len(line.lstrip()) > len(than) - len(than.lstrip())


def _reason(lines: list[str]) -> list[str]:
    """What was expected and what came, of a key of several types in one line."""
    types = next((line for line in lines if line.lstrip().startswith(_TYPES)), None)
    if types is None:
        return lines[:1]
    value = next((line.partition(": ")[2] for line in reversed(lines) if line.lstrip().startswith("Given value:")), "")
    named = re.sub(r"<class '([\w.]+)'>", r"\1", types).replace("NoneType", "None")
    return [f"{named.replace(_TYPES, 'Expected one of [')}. Got value: {shorten(value, _MOST_OF_A_VALUE)}"]
