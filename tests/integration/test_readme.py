"""README.md is true: its Python runs, its commands parse, the files it names exist."""

import contextlib
import glob
import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from sparc3_lightning import commands
from sparc3_lightning.cli import SparC3CLI
from sparc3_lightning.main import FILE_COMMANDS, TRAINER_COMMANDS, main
from sparc3_lightning.models import build_model
from sparc3_lightning.pruning.recipe import Recipe
from tests.runs import BRIEF, QUIET, ROOT, TINY, command, log_dir, read

pytestmark = QUIET

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
# The model that README's examples name; here a tiny one stands in for it.
MODEL = "meta-llama/Meta-Llama-3-8B"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


PYTHON = blocks("python")
LINES = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines() if line.strip()]
COMMANDS = [words[1:] for line in LINES if (words := shlex.split(line, comments=True))[0] == "sparc3"]
EXECUTED = ("inspect", "select")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny experiment's model and tokenizer, saved."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "configs" / "tiny" / "tokenizer")
    tokenizer.save_pretrained(directory)
    build_model(read(ROOT / TINY)["model"]["config"], len(tokenizer)).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader is after the tiny run: at the project's root, with `logs/tiny/version_0`."""
    home = tmp_path_factory.mktemp("workplace")
    (home / "configs").symlink_to(ROOT / "configs")
    results = log_dir(command("predict", TINY, home / "logs", *BRIEF))
    assert results == home / "logs" / "tiny" / "version_0"
    shutil.copy(results / "pruned_neurons.json", home)
    return home


def test_there_is_something_to_test() -> None:
    assert PYTHON, "README.md has no ```python block"
    assert any("apply_recipe" in block for block in PYTHON)
    assert {"predict", "test", "inspect", "select", "apply"} <= {words[0] for words in COMMANDS}


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_block_runs(block: str, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each block by itself, in an empty directory."""
    assert MODEL in block
    names: dict[str, object] = {"__name__": "readme"}
    with contextlib.chdir(tmp_path):
        exec(compile(block.replace(MODEL, str(model_dir)), "README.md", "exec"), names)
    assert capsys.readouterr().out.strip()
    if "recipe" in names:
        assert isinstance(names["recipe"], Recipe)
        assert len(names["recipe"].neurons) == 10


def expanded(words: list[str]) -> list[str]:
    """As the shell would."""
    return [word for pattern in words for word in (sorted(glob.glob(pattern)) if "*" in pattern else [pattern])]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command_parses(words: list[str], workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are parsed and not built; what only reads scores is run."""
    monkeypatch.chdir(workplace)
    name, *options = words
    if name in TRAINER_COMMANDS:
        monkeypatch.setattr(SparC3CLI, "instantiate_classes", lambda self: None)
        monkeypatch.setattr(SparC3CLI, "_run_subcommand", lambda self, subcommand: None)
        assert main(words).subcommand == name
    elif name in EXECUTED:
        main([name, *expanded(options)])
    else:
        seen = []
        add_options, _ = commands._COMMANDS[name]
        monkeypatch.setitem(commands._COMMANDS, name, (add_options, seen.append))
        main(words)
        assert len(seen) == 1


def test_first_run_reads_configs_that_are_there() -> None:
    named = set(re.findall(r"\b(?:tests/)?configs/[\w./]+\.yaml", TEXT)) | set(re.findall(r"configs/[\w./]+/", TEXT))
    assert "configs/tiny/suppress.yaml" in named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("folder", ["llama3_8b", "trainer"])
def test_tables_name_every_fragment(folder: str) -> None:
    fragments = {path.name for path in (ROOT / "configs" / folder).glob("*.yaml")} - {"suppress.yaml"}
    assert [name for name in fragments if f"`{name}`" not in TEXT] == []


def test_options_in_the_prose_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = re.findall(r"`(--[\w.]+) (?:FILE|DIRECTORY)`", TEXT)
    assert spans, "README.md names no option that takes a file"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(SparC3CLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(SparC3CLI, "_run_subcommand", lambda self, subcommand: None)
    config = ["predict", "--config", "configs/llama3_8b/suppress.yaml"]
    for option in spans:
        if option != "--config":
            found = main([*config, f"{option}=here"]).config.predict
            assert found[option.removeprefix("--")] == "here"


def test_spans_name_commands_that_exist() -> None:
    named = set(re.findall(r"`sparc3 (\w+)", TEXT))
    assert named <= {*TRAINER_COMMANDS, *FILE_COMMANDS}


def test_make_targets_and_modules_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake ([\w-]+)", " ".join([*LINES, *re.findall(r"`([^`]*)`", TEXT)])))
    assert {"venv", "test"} <= targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
    for module in set(re.findall(r"python -m ([\w.]+)", TEXT)):
        assert importlib.util.find_spec(module) is not None
