"""Stages that are made once, a stamp beside what each made says what it was made from."""

import ast
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from sparc3_lightning.files import file_sha256, json_sha256, load_yaml, read_json, write_json
from sparc3_lightning.version import package_versions

_STAMP = "stamp.json"


class Ran(NamedTuple):
    """What came of a stage.

    Attributes:
        outcome: What its maker gave, now or the last time.
        reused: Whether it was there already.
    """

    outcome: dict[str, Any]
    reused: bool


@dataclass(frozen=True)
class Stage:
    """One stage of the demo.

    Attributes:
        name: What it is called.
        directory: Where it makes what it makes, and where its stamp lies.
        inputs: Files that it depends on, or directories of such. Of YAML and Python what they say counts, not how: a
            comment changes nothing.
        options: What else it depends on, as JSON.
        keep: Leave what was made before beside what is made now, instead of removing the directory.
        lasting: Other versions of this or of another package make the same.
    """

    name: str
    directory: Path
    inputs: tuple[Path, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    keep: bool = False
    lasting: bool = False

    def made_from(self) -> dict[str, str]:
        """A hash of each input, of the options, and, if it depends on them, of this and every package's versions."""
        said = {"options": self.options, **({} if self.lasting else {"package versions": package_versions()})}
        hashes = {str(path): _hash_of(path) for path in self.inputs}
        return hashes | {name: json_sha256(value) for name, value in said.items()}

    def run(self, make: Callable[[], dict[str, Any]], console: Console) -> Ran:
        """Make it, unless its inputs are those of the last time; say which, why, and how long it took.

        Args:
            make: Makes it; gives its outcome, as JSON. `made` in it is a path that must be there to be reused.
            console: Where to say it.

        Returns:
            The outcome, and whether it was reused.
        """
        stamp, made_from = self.directory / _STAMP, self.made_from()
        known = read_json(stamp, "stamp") if stamp.is_file() else {"made_from": {}, "outcome": {}}
        changed = [name for name in made_from if known["made_from"].get(name) != made_from[name]]
        outcome: dict[str, Any] = known["outcome"]
        if not changed and Path(outcome["made"]).exists():
            _say(console, f"{self.name}: reused, its inputs are unchanged ({self.directory})")
            return Ran(outcome, reused=True)
        reason = f" again, since these changed: {', '.join(changed)}" if known["made_from"] and changed else ""
        _say(console, f"{self.name}: making it{reason}")
        if not self.keep:
            shutil.rmtree(self.directory, ignore_errors=True)
        started = time.perf_counter()
        outcome = make()
        write_json(stamp, {"made_from": made_from, "outcome": outcome})
        _say(console, f"{self.name}: made in {time.perf_counter() - started:.0f} s ({self.directory})")
        return Ran(outcome, reused=False)


def _say(console: Console, line: str) -> None:
    console.print(Text(line, "bold"), soft_wrap=True)


def _hash_of(path: Path) -> str:
    if path.suffix == ".yaml":
        return json_sha256(load_yaml(path.read_text(encoding="utf-8"), str(path)))
    if path.suffix == ".py":
        return json_sha256(ast.dump(ast.parse(path.read_text(encoding="utf-8"))))
    if path.is_file():
        return file_sha256(path)
    # A stamp names the versions of packages; those who depend on a directory say theirs themselves.
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != _STAMP)
    return json_sha256([[str(file.relative_to(path)), file_sha256(file)] for file in files])
