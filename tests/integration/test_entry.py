"""The one entry: fast, complete, and clear about what it does not know."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sparc3_lightning.main import FILE_COMMANDS, TRAINER_COMMANDS, console, main
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.version import __version__
from tests.runs import ROOT, TINY
from tests.tiny_files import refused, typed
from tests.unit.report.trial_runs import write_compression_dir, write_sweep_dir

HEAVY = ("torch", "transformers", "lightning", "jsonargparse")


def imported_by(*calls: list[str]) -> set[str]:
    """Heavy packages that are there after the calls, each of which may exit or refuse."""
    code = f"""
import contextlib, sys
from sparc3_lightning.main import main
for call in {calls!r}:
    with contextlib.suppress(SystemExit, ValueError):
        main(call)
print("HEAVY", *(name for name in {HEAVY!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_help_lists_every_command() -> None:
    shown = typed("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    listed = [line.split()[0] for line in shown.stdout.splitlines() if line.startswith("  ")]
    for command in ("fit", "validate", "test", "predict", "inspect", "select", "apply", "report", "compare"):
        assert command in listed
        assert command in {**TRAINER_COMMANDS, **FILE_COMMANDS}


def test_no_arguments_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    alone = capsys.readouterr().out
    main(["-h"])
    assert capsys.readouterr().out == alone


def test_help_starts_at_once() -> None:
    """CPU seconds count, since other jobs may hold the cores; torch alone takes more than this."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def fastest(*command: str) -> float:
        times = []
        for _ in range(3):
            before = spent()
            subprocess.run(command, capture_output=True, check=True)
            times.append(spent() - before)
        return min(times)

    bare = fastest(sys.executable, "-c", "pass")
    assert fastest(sys.executable, "-m", "sparc3_lightning", "--help") - bare < 0.7


def test_light_commands_import_nothing_heavy(tmp_path: Path) -> None:
    recipe = Recipe([(0, 1)], [-1.0], {"id": "someone/tiny", "num_layers": 2}).save(tmp_path / "r.json")
    for run in ("one", "two"):
        write_sweep_dir(tmp_path / run / "sweep")
        write_compression_dir(tmp_path / run / "compression")
    commands = [["inspect", str(recipe)], ["inspect", str(recipe), "--json"], ["inspect", "--help"]]
    commands += [["inspect", str(tmp_path / "one")], ["compare", str(tmp_path / "one"), str(tmp_path / "two")]]
    commands += [
        ["plan", "--help"],
        ["select", "--help"],
        ["apply", "--help"],
        ["report", "--help"],
        ["--help"],
        ["--version"],
        ["unknown"],
    ]
    assert imported_by(*commands) == set()


def test_import_guard_can_see_torch(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert "torch" in imported_by(["inspect", str(tmp_path)])


def test_nothing_imports_bitsandbytes() -> None:
    """Where there is no GPU it warns, as the first line that a newcomer sees; transformers' Trainer brings it."""
    code = """
import importlib, pkgutil, sys
import callbacks, sparc3_lightning
for package in (callbacks, sparc3_lightning):
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(found.name)
print(sorted({"bitsandbytes", "sparc3_lightning.cli", "sparc3_lightning.demo.__main__"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['sparc3_lightning.cli', 'sparc3_lightning.demo.__main__']"
    assert done.stderr == ""


def test_version() -> None:
    shown = typed("--version")
    assert (shown.returncode, shown.stdout.strip()) == (0, __version__)


def test_unknown_command() -> None:
    shown = typed("prune")
    assert (shown.returncode, shown.stdout) == (2, "")
    first = shown.stderr.splitlines()[0]
    assert first.startswith("sparc3: error: unknown command 'prune'")
    assert all(command in first for command in {**TRAINER_COMMANDS, **FILE_COMMANDS})


def test_config_before_the_command() -> None:
    shown = typed("--config", "run.yaml", "predict")
    assert shown.returncode == 2
    assert "the command comes first" in shown.stderr.splitlines()[0]


@pytest.mark.parametrize("command", [["predict", "--help"], ["inspect"], ["predict", "--config", TINY]])
def test_windows_is_refused(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sparc3", *command])
    monkeypatch.setattr(sys, "platform", "win32")
    assert console() == 1
    assert "sparc3: error: Windows is not supported: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["callbacks/__init__.py", "callbacks.py"])
@pytest.mark.parametrize("text", ["", "raise RuntimeError('it is not for this')"])
def test_a_user_s_own_callbacks_are_named_and_never_run(name: str, text: str, tmp_path: Path) -> None:
    """`python -m` looks into the directory that it is started in first."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    shown = typed("predict", "--config", str(ROOT / TINY), cwd=tmp_path)
    assert shown.stdout == ""
    refused(
        shown, "`callbacks` must come from the same checkout", f"got {tmp_path / Path(name).parts[0]}.", "PYTHONPATH"
    )


@pytest.mark.parametrize("words", [["--help"], ["inspect", "RECIPE"], ["inspect", "RECIPE", "--json"]])
def test_a_reader_who_has_seen_enough(words: list[str], tmp_path: Path) -> None:
    recipe = Recipe([(0, 1)], [-1.0], {"id": "someone/tiny", "num_layers": 2}).save(tmp_path / "r.json")
    command = [sys.executable, "-m", "sparc3_lightning", *(str(recipe) if word == "RECIPE" else word for word in words)]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("backend", ["module://matplotlib_inline_of_another.backend_inline", "module://nowhere"])
def test_a_notebook_s_matplotlib_backend(backend: str) -> None:
    code = "import sparc3_lightning.report.page, torchmetrics, matplotlib; print(matplotlib.get_backend())"
    environment = {**os.environ, "MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "agg\n", "")


def test_a_matplotlib_backend_that_is_there_stays() -> None:
    code = "import os, sparc3_lightning; print(os.environ['MPLBACKEND'])"
    for backend in ("svg", "module://json.decoder"):
        environment = {**os.environ, "MPLBACKEND": backend}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == backend


def test_errors_are_one_line_unless_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["sparc3", "inspect", "nowhere"])
    monkeypatch.delenv("SPARC3_TRACEBACK", raising=False)
    assert console() == 1
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("SPARC3_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        console()
