"""Tiny models, scores and recipes as files, and the command line as a user types it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sparc3_lightning.models.identity import base_model
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.scoring.plain import attribute
from tests.launch import PATIENCE
from tests.tiny import VOCAB, tiny_llama, tiny_samples

ROOT = Path(__file__).resolve().parent.parent
NEURONS = [(1, 3), (0, 23), (1, 0)]


class Files(NamedTuple):
    model: Path
    scores: Path
    recipe: Path

    @property
    def select(self) -> list[str]:
        general = [str(self.scores / "seed0"), str(self.scores / "seed1")]
        return ["select", "--general", *general, "--behaviour", str(self.scores / "toxic"), "--num_neurons", "5"]


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """A vocabulary as large as the tiny models', one token a word; no padding token."""
    words = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(VOCAB - 3))]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def recipe_of(model: PreTrainedModel, name: str = "someone/tiny", revision: str | None = "abc") -> Recipe:
    options = {"num_neurons": 3, "scope": "global", "behaviour": {"name": "toxic", "num_samples": 7}}
    return Recipe(NEURONS, [-3.0, -2.0, -1.0], base_model(model, name, revision), options)


def save_tiny_model(directory: Path, seed: int = 0) -> PreTrainedModel:
    model = tiny_llama(seed=seed)
    model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return model


def save_tiny_scores(directory: Path, model: PreTrainedModel) -> None:
    """`seed0`, `seed1` and `toxic`, as plain Python writes them: without names."""
    for seed, name in enumerate(("seed0", "seed1", "toxic")):
        attribute(model, tiny_samples(seed=seed)).save(directory / name)


def typed(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m sparc3_lightning ...` with a pipe for a terminal of 80 columns."""
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    environment.pop("SPARC3_TRACEBACK", None)
    return subprocess.run(
        [sys.executable, "-m", "sparc3_lightning", *args],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
        timeout=PATIENCE,
    )


def same_weights(first: PreTrainedModel, second: PreTrainedModel) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def refused(result: subprocess.CompletedProcess[str], *said: str) -> None:
    """One line on stderr, which says all of `said`, and status 1."""
    assert result.returncode == 1
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("(SPARC3_TRACEBACK")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("sparc3: error: ")
    for part in said:
        assert part in lines[0]
