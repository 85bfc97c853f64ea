"""A tiny model, its scores and a recipe on disk, for the file-only commands; and a command line to type at."""

import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from sparc3_lightning.main import console, main
from tests.runs import BRIEF, ROOT, TINY, command, log_dir, written
from tests.shown import Shown, Type
from tests.tiny_files import Files, save_tiny_model, save_tiny_scores


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    home = tmp_path_factory.mktemp("files")
    made = Files(home / "model", home / "scores", home / "recipe.json")
    save_tiny_model(made.model)
    save_tiny_scores(made.scores, AutoModelForCausalLM.from_pretrained(made.model).eval())
    main([*made.select, "--output", str(made.recipe)])
    return made


@pytest.fixture(scope="session")
def brief_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the tiny run with a brief evaluation. Read it only."""
    return log_dir(command("predict", TINY, tmp_path_factory.mktemp("brief"), *BRIEF))


@pytest.fixture
def type_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Type a command at the project's root: what it shows, and what it leaves in its run directory."""

    def type_words(*words: str) -> Shown:
        runs = tmp_path / "runs"
        options = [f"--trainer.logger.init_args.save_dir={runs}", "--trainer.enable_progress_bar=false"]
        monkeypatch.chdir(ROOT)
        monkeypatch.delenv("SPARC3_TRACEBACK", raising=False)
        monkeypatch.setattr(sys, "argv", ["sparc3", *words, *(options if "--config" in words else [])])
        capsys.readouterr()
        try:
            status = console()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        out, err = capsys.readouterr()
        return Shown(status, out, err, written(runs) if runs.exists() else [])

    return type_words
