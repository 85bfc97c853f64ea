"""Writing whole artefacts: a temporary name first, then one rename, so that nothing is ever half written."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FILE_MODE, _DIRECTORY_MODE = 0o644, 0o755


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Fill a directory under a temporary name beside `path`, then rename it; on an error it is removed.

    Raises:
        FileExistsError: `path` is there already and not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists already and is not empty: remove it, or choose another directory.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            file.chmod(_DIRECTORY_MODE if file.is_dir() else _FILE_MODE)
        temporary.chmod(_DIRECTORY_MODE)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file under a temporary name, then rename it; NaN and Inf are refused, since JSON has none."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=True) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        temporary.write_text(text)
        temporary.chmod(_FILE_MODE)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is not JSON; names file and place.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}.")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable {what}: {error}.") from error


def file_sha256(path: Path) -> str:
    """Sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
