"""What a command that was typed shows, and what a refusal must look like."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.runs import ROOT, TINY


class Shown(NamedTuple):
    status: int
    out: str
    err: str
    files: list[str]


Type = Callable[..., Shown]


def variant(path: Path, old: str, new: str) -> str:
    """The tiny experiment with one thing changed."""
    text = (ROOT / TINY).read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return str(path)


def refused(shown: Shown, status: int, *said: str) -> None:
    """Short, without traceback, and nothing left of a run that never started."""
    message = [line for line in shown.err.splitlines() if line.startswith("sparc3")]
    rest = shown.err[shown.err.index(message[0]) :] if message else shown.err
    assert shown.status == status, shown.err
    assert "Traceback" not in shown.err
    assert "args parameter" not in shown.err
    assert len(rest) < 700, rest
    assert len(rest.splitlines()) <= 6, rest
    for part in said:
        assert part in rest, rest
    assert shown.files == []
