"""Runs through `main([...])`, as a user types them, from the project's root into a directory of the test's own."""

import contextlib
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoTokenizer

from sparc3_lightning.cli import SparC3CLI
from sparc3_lightning.data.samples import LoadContext, ReferenceSamples, ReferenceSet
from sparc3_lightning.main import main

ROOT = Path(__file__).resolve().parent.parent
TINY = "configs/tiny/suppress.yaml"
# A tiny evaluation, where a test is about something else.
BRIEF = [
    "--model.evaluator.init_args.decoding.num_completions=1",
    "--model.evaluator.init_args.decoding.max_new_tokens=4",
    "--model.evaluator.init_args.num_draws=50",
]
# In a test the command line is pytest's; LightningCLI warns of that.
QUIET = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter:UserWarning")


def command(name: str, config: str | Path, save_dir: Path, *options: str) -> SparC3CLI:
    """Run a command in this process; its run directories lie under `save_dir`."""
    quiet = ["--trainer.enable_progress_bar=false", f"--trainer.logger.init_args.save_dir={save_dir}"]
    with contextlib.chdir(ROOT):
        cli = main([name, "--config", str(config), *quiet, *options])
    assert isinstance(cli, SparC3CLI)
    return cli


def log_dir(cli: SparC3CLI) -> Path:
    return Path(str(cli.trainer.log_dir))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.suffix == ".yaml" else json.loads(path.read_text())


def board(directory: Path) -> EventAccumulator:
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return events


def written(directory: Path) -> list[str]:
    """What lies in a directory, temporary files included."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def samples_of(results: Path, name: str, tokenizer: str, max_length: int, reserve_tokens: int = 0) -> ReferenceSamples:
    """Load a reference set again from the config that a run saved: plain data classes, no trainer."""
    data = read(results / "config.yaml")["data"]
    described = {**data["general"], **data["behaviours"]}[name]
    module, _, class_name = described["class_path"].rpartition(".")
    source: ReferenceSet = getattr(importlib.import_module(module), class_name)(**described["init_args"])
    with contextlib.chdir(ROOT):
        return source.load(LoadContext(AutoTokenizer.from_pretrained(tokenizer), max_length, reserve_tokens))
