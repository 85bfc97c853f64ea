"""What is done to the disk, in order."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest


def record(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From here on, every fsync, rename and removed directory, by the last name of its path."""
    calls: list[str] = []

    def name(path: object) -> str:
        last = Path(str(path)).name
        return ".tmp" if last.endswith(".tmp") else last

    def watch(module: Any, function: str, which: Any) -> None:
        original = getattr(module, function)

        def watched(*args: Any, **kwargs: Any) -> Any:
            calls.append(f"{function} {which(*args)}")
            return original(*args, **kwargs)

        monkeypatch.setattr(module, function, watched)

    watch(os, "fsync", lambda descriptor: name(os.readlink(f"/proc/self/fd/{descriptor}")))
    watch(os, "replace", lambda _, target: name(target))
    watch(shutil, "rmtree", lambda path, *_: name(path))
    return calls
