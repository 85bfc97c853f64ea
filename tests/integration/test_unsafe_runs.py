"""Runs that would mislabel, overwrite or execute what they should not are refused, and at once."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from sparc3_lightning.main import console
from tests.runs import BRIEF, QUIET, ROOT, TINY, written
from tests.shown import Type, refused, variant

pytestmark = QUIET


@pytest.mark.parametrize("command", ["predict", "test"])
def test_code_beside_a_model_is_never_run(
    command: str, type_in: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless told, transformers asks at the terminal whether it may run it."""
    described = {"model_type": "theirs", "auto_map": {"AutoConfig": "code.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    shown = type_in(command, "--config", TINY, "--model.config=null", f"--model.model={tmp_path}")
    refused(shown, 1, "sparc3: error: the model", "custom code")
    assert not (tmp_path / "ran").exists()


def test_recipe_in_predict(type_in: Type) -> None:
    """Else a pruned model's scores would bear the base model's name."""
    refused(type_in("predict", "--config", TINY, "--model.recipe=any.json"), 1, "`recipe` must be null", "sparc3 apply")


def test_too_many_neurons_for_the_control(type_in: Type, tmp_path: Path) -> None:
    """Told before the evaluations, not after two of them."""
    config = variant(tmp_path / "run.yaml", "num_neurons: 8", "num_neurons: 150")
    shown = type_in("predict", "--config", config, *BRIEF)
    assert shown.status == 1
    assert "the control needs" in shown.err
    assert not [name for name in shown.files if name.endswith("_eval.json")]


@pytest.mark.parametrize("command", ["predict", "test", "validate", "fit"])
def test_directory_of_another_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a logger all runs share one directory: the first one's files stay what they are."""
    used = tmp_path / "used"
    (used / "scores").mkdir(parents=True)
    (used / "config.yaml").write_text("theirs")
    shared = ["--trainer.logger=false", f"--trainer.default_root_dir={used}"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["sparc3", command, "--config", TINY, *shared])
    assert console() == 1
    assert (used / "config.yaml").read_text() == "theirs"
    assert written(used) == ["config.yaml"]


def test_a_start_that_fails_leaves_a_user_s_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("theirs")
    here = ["--trainer.logger=false", f"--trainer.default_root_dir={tmp_path}"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["sparc3", "predict", "--config", TINY, "--model.modules=nothing", *here])
    assert console() == 1
    assert written(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("command", ["predict", "test"])
def test_a_trial_run_writes_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its logger the directory would be the working one, and a state left there would stop the next run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs" / "tiny", tmp_path / "configs" / "tiny")
    before = written(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sparc3", command, "--config", TINY, "--trainer.fast_dev_run=1"])
    assert console() == 1
    assert f"`{command}` does all, or nothing" in capsys.readouterr().err
    assert written(tmp_path) == before


@pytest.mark.parametrize("command", ["predict", "test"])
def test_a_start_that_fails_leaves_no_directory(command: str, type_in: Type, tmp_path: Path) -> None:
    shown = type_in(command, "--config", TINY, "--model.config.hidden_size=50")
    refused(shown, 1, "hidden size (50)")
    assert not (tmp_path / "runs").exists()
