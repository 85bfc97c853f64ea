"""Result files: whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_json(path: str | Path, content: Any) -> Path:
    """Write a JSON file so that no reader ever sees half of it.

    Args:
        path: where; its directory is made.
        content: JSON values. NaN and infinity are none.

    Returns:
        The path.

    Raises:
        ValueError: a number is not finite; nothing is written.
    """
    target = Path(path)
    try:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise ValueError(f"{target} was not written: a figure in it is not finite ({error}).") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner reads.
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return target


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it is no JSON; the message names file and line.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg}).") from error
