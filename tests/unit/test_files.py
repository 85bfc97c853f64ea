"""Files are whole or not there."""

import errno
import json
import math
import os
import stat
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

from sparc3_lightning import files
from sparc3_lightning.distributed.sums import write_sums
from sparc3_lightning.files import fsync, load_yaml, new_directory, read_json, write_json
from sparc3_lightning.report.figures import save_figure
from tests.disk import record


def test_what_is_written_is_read(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, None], "text": "na\u00efve \U0001f600"}
    path = write_json(tmp_path / "deep" / "result.json", content)
    assert read_json(path) == content
    assert path.read_bytes().isascii()
    assert os.listdir(path.parent) == ["result.json"]


@pytest.mark.parametrize(("umask", "file", "directory"), [(0o077, 0o600, 0o700), (0o002, 0o664, 0o775)])
def test_who_may_read_it_is_the_umasks_to_say(umask: int, file: int, directory: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "result.json", {})
        save_figure(Figure(), tmp_path / "figure")
        write_sums(tmp_path / "resume", "sum", {"layer": torch.zeros(2)})
        with new_directory(tmp_path / "scores") as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / "index.json").touch()
            save_file({"layer": torch.zeros(2)}, temporary / "model.safetensors")
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert len(modes) == 9
    assert modes == {path: directory if (tmp_path / path).is_dir() else file for path in modes}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_never_written(tmp_path: Path, value: float) -> None:
    path = write_json(tmp_path / "result.json", {"old": 1})
    with pytest.raises(ValueError, match=r"result\.json was not written"):
        write_json(path, {"new": value})
    assert read_json(path) == {"old": 1}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json(tmp_path / "result.json", {"old": 1})

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"new": 2})
    assert os.listdir(tmp_path) == ["result.json"]
    assert json.loads(path.read_text()) == {"old": 1}


def test_a_file_and_its_name_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch)
    write_json(tmp_path / "result.json", {})
    assert calls == ["fsync .tmp", "replace result.json", f"fsync {tmp_path.name}"]


def test_a_directory_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_directory(tmp_path / "scores") as directory:
        (directory / "deep").mkdir()
        (directory / "deep" / "file").touch()
        calls = record(monkeypatch)
    assert calls[-3:] == ["fsync .tmp", "replace scores", f"fsync {tmp_path.name}"]
    assert sorted(calls[:-3]) == ["fsync deep", "fsync file"]


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_file_system_without_fsync_of_directories(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()

    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with nullcontext() if what == "directory" else pytest.raises(OSError, match="Invalid"):
        fsync(tmp_path if what == "directory" else tmp_path / "file")


def test_broken_json_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text('{\n"a": 1,\n oops}')
    with pytest.raises(ValueError, match=r"broken\.json, line 3"):
        read_json(path)


def test_what_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no recipe at .*gone\.json"):
        read_json(tmp_path / "gone.json", "recipe")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.json is no readable recipe"):
        read_json(tmp_path / "binary.json", "recipe")


def test_yaml_is_read() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [*a, {x: 4}]\n1: one\n'1': text one\n"
    a = {"x": 1, "y": 2}
    expected = {"a": a, "b": {"x": 3, "y": 2}, "c": [a, {"x": 4}], 1: "one", "1": "text one"}
    assert load_yaml(text, "run.yaml") == expected
    assert load_yaml("", "run.yaml") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 2\n  d: 3\n  c: 4\n", "run.yaml, line 5: the key `c` comes a second time, after line 3"),
        ("- {a: 1, 'a': 2}\n", "run.yaml, line 1: the key `a` comes a second time, after line 1"),
        ("a: [\n", "run.yaml, line 2: no readable YAML"),
        ("a: 1\n---\nb: 2\n", "run.yaml, line 2: no readable YAML"),
        ("day: 2024-13-45\n", "run.yaml: no readable YAML .*month"),
    ],
)
def test_yaml_that_says_two_things_or_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_yaml(text, "run.yaml")
