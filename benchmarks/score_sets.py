"""Bytes of scores that are read, and memory held, by what reads and writes whole score sets: part of scaling.py.

Sets of all weights of a tiny model. Read: of every tensor that comes out of a score file, and of every score file that
is hashed. Held: of all tensors that live after any operation, without the model's.
"""

import io
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors
import torch
from counters import CountHeld
from lightning.pytorch import Callback, Trainer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from callbacks import BaselineCallback, EvaluationCallback, PruningCallback, RelevanceCallback, ScoreWriter
from sparc3_lightning import attribute
from sparc3_lightning.commands import run_file_command
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.data.samples import LoadContext, ReferenceSamples, ReferenceSet, TextSet
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.report import page
from sparc3_lightning.scoring import lazy, manifest, score_set
from sparc3_lightning.scoring.plain import score_baselines

ROOT = Path(__file__).resolve().parent.parent
TINY: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 16,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
SETS = ("general_seed0", "general_seed1", "general_seed2", "toxic")


class CountRead:
    """Bytes of scores read.

    Attributes:
        read: Of tensors, and
        hashed: of files for their sha256, since they were last set to 0.
    """

    def __init__(self) -> None:
        self.read = self.hashed = 0

    @contextmanager
    def counting(self) -> Iterator["CountRead"]:
        """Count all that is read meanwhile."""
        open_file, hash_file = lazy.safe_open, score_set.file_sha256

        def hashed(path: Path) -> str:
            self.hashed += path.stat().st_size if path.suffix == ".safetensors" else 0
            return hash_file(path)

        def counted(*args: Any, **options: Any) -> _File:
            return _File(self, open_file(*args, **options))

        with ExitStack() as stack:
            for room in (lazy, safetensors):
                stack.enter_context(mock.patch.object(room, "safe_open", counted))
            for room in (score_set, manifest):
                stack.enter_context(mock.patch.object(room, "file_sha256", hashed))
            yield self


class _File:
    """A safetensors file that tells what is taken from it."""

    def __init__(self, count: CountRead, file: Any) -> None:
        self._count, self._file = count, file

    def __enter__(self) -> "_File":
        self._file.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._file.__exit__(*exception)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def get_tensor(self, name: str) -> Any:
        tensor = self._file.get_tensor(name)
        self._count.read += tensor.nbytes
        return tensor


class FewTokens(ReferenceSet):
    """Two samples of two tokens: what passes through the model is small beside its weights."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = [torch.randint(0, TINY["vocab_size"], (2,), generator=generator) for _ in range(2)]

    def load(self, context: LoadContext) -> ReferenceSamples:
        return ReferenceSamples(self.ids, {"class": "FewTokens"}, [str(place) for place in range(len(self.ids))])


class FewWords(TextSet):
    """A text to measure perplexity on."""

    def load_rows(self) -> list[str]:
        return ["one text of a few words"] * 4


def predict(directory: Path, *callbacks: Callback) -> None:
    """A run that scores all weights."""
    trainer = Trainer(
        accelerator="cpu", devices=1, callbacks=[RelevanceCallback(), ScoreWriter(), *callbacks], logger=False,
        inference_mode=False, use_distributed_sampler=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=directory,
    )  # fmt: skip
    module = SparC3Module(
        config=TINY, tokenizer=str(ROOT / "configs/tiny/tokenizer"), granularity="weight", modules="all",
        evaluator=Evaluator(perplexity_protocols=["disjoint"], window=16, batch_size=1, num_draws=10),
    )  # fmt: skip
    sets: dict[str, ReferenceSet] = {name: FewTokens(seed) for seed, name in enumerate(SETS)}
    behaviours = {"toxic": sets.pop("toxic")}
    data = SparC3DataModule(sets, behaviours, evaluation_text=FewWords(), batch_size=1)
    trainer.predict(module, datamodule=data, return_predictions=False)


def measure_score_sets(directory: Path) -> dict[str, Any]:
    """Peak and reads of each step, beside the bytes of one set and of its largest module."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**TINY))
    options: dict[str, Any] = {"granularity": "weight", "modules": "all"}
    modules = []
    for seed, name in enumerate(SETS):
        scores = attribute(model, FewTokens(seed).ids, **options)
        scores.save(directory / name)
        modules = [math.prod(shape) * 4 for shape in scores.shapes.values()]
    general = [str(directory / name) for name in SETS[:-1]]
    select = ["--general", *general, "--behaviour", str(directory / SETS[-1]), "--output", str(directory / "r.json")]
    suppress = [PruningCallback(num_neurons=5), EvaluationCallback(num_control_draws=1)]
    baselines = BaselineCallback(["gradient", "wanda", "random"])
    steps: dict[str, tuple[int, Callable[[], Any]]] = {  # and how many models there are
        "attribute": (1, lambda: attribute(model, FewTokens(9).ids, batch_size=1, **options)),
        "sparc3 select": (1, lambda: run_file_command("select", [*select, "--num_neurons", "5"])),
        "sparc3 inspect": (1, lambda: run_file_command("inspect", [general[0], "--json"])),
        "random": (1, lambda: score_baselines(model, {}, ["random"], **options)["random"].ranking),
        "predict, selection and evaluation": (2, lambda: predict(directory / "suppress", *suppress)),
        "predict, 3 baselines": (2, lambda: predict(directory / "baselines", baselines)),
    }
    found = {name: held(step, model, num_models) for name, (num_models, step) in steps.items()}
    return {"set": sum(modules), "largest_module": max(modules), "steps": found}


def held(step: Callable[[], Any], model: nn.Module, num_models: int) -> dict[str, int]:
    """What a step read, and the most bytes of tensors that it held, those of the models left out."""
    weights = num_models * sum(parameter.untyped_storage().nbytes() for parameter in model.parameters())
    with ExitStack() as stack:
        if num_models == 1:  # a layer of a large model is many blocks; of whole runs only sets are counted
            stack.enter_context(mock.patch.object(lazy, "BLOCK", 4096))
        # No figure of the report is made of more than was read.
        stack.enter_context(mock.patch.object(page, "pictures", return_value=[]))
        stack.enter_context(redirect_stdout(io.StringIO()))
        count = stack.enter_context(CountRead().counting())
        counted = stack.enter_context(CountHeld(model))
        step()
    return {"read": count.read, "hashed": count.hashed, "peak": max(0, counted.peak - weights)}
