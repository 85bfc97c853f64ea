"""What each strategy sends: counted, and as many bytes as the closed forms say."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks import RelevanceCallback
from sparc3_lightning.data.samples import LoadContext, Prompt, ReferenceSamples
from sparc3_lightning.module import SparC3Module
from tests.distributed.collectives import Collectives
from tests.distributed.jobs import LENGTHS, Case, FixedSamples, make_data, make_module, make_trainer, predict
from tests.launch import run_distributed
from tests.tiny import SHAPE
from tests.tiny_files import save_tiny_model

NUM_SETS = 2
BLOCKS: int = SHAPE["num_hidden_layers"]
# Whether one rank of them failed, asked after every batch.
FLAG = {"all_reduce": (1, 8)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny_model(directory)
    return directory


class Responses(FixedSamples):
    """Asks the model for responses first, as RealToxicityPrompts with `select_by: response` does."""

    def load(self, context: LoadContext) -> ReferenceSamples:
        assert context.score_responses is not None
        scores = context.score_responses([Prompt(str(i), f"w{i} w3") for i in range(3)])
        assert len(scores) == 3
        return super().load(context)


class Batches(Callback):
    """Counts within each batch."""

    def __init__(self) -> None:
        self.seen: list[Collectives] = []

    def on_predict_batch_start(self, *_: Any) -> None:
        self.seen.append(Collectives().__enter__())

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.seen[-1].__exit__(None, None, None)
        # Under DDP the plain module: no wrapper, whose backward would reduce gradients.
        assert trainer.strategy.model is pl_module


def nbytes(module: SparC3Module, dtype: torch.dtype, *, inside: str = "", outside: str = "nothing") -> int:
    return sum(
        parameter.numel() * dtype.itemsize
        for name, parameter in module.lm.named_parameters()
        if inside in name and outside not in name
    )


def per_batch(module: SparC3Module, case: Case) -> dict[str, tuple[int, int]]:
    """Number and bytes of each collective in one batch."""
    if case.strategy == "replicated":
        return FLAG
    dtype = getattr(torch, case.dtype)
    blocks, rest = nbytes(module, dtype, inside="layers."), nbytes(module, dtype, outside="layers.")
    # Each block before its forward and again before its backward pass; the rest stays from one to the other.
    wanted = {**FLAG, "all_gather": (2 * BLOCKS + 1, 2 * blocks + rest)}
    if case.granularity == "weight":
        scored = sum(module.lm.get_parameter(f"{name}.weight").numel() for name in module.run.expected_modules)
        wanted["reduce_scatter"] = (BLOCKS + 1, scored * torch.promote_types(dtype, torch.float32).itemsize)
    return wanted


def count(model: str, cases: list[Case], ask_responses: bool) -> None:
    home = str(Path(model).parent)
    num_batches = NUM_SETS * -(-len(LENGTHS) // (2 * int(os.environ["WORLD_SIZE"])))
    for case in cases:
        batches, module = Batches(), make_module(model, case)
        trainer = make_trainer(case.strategy, batches, RelevanceCallback(), default_root_dir=home)
        with Collectives() as everything:
            predict(trainer, module, make_data(2, a=FixedSamples(), b=Responses() if ask_responses else FixedSamples()))
        assert len(batches.seen) == num_batches
        wanted = per_batch(module, case)
        for batch in batches.seen:
            assert {kind: (number, batch.bytes[kind]) for kind, number in batch.counts.items()} == wanted, case
        assert_one_sum(everything.counts, module, num_batches, case)
        assert_nothing_left(module)


def assert_one_sum(counts: Counter[str], module: SparC3Module, num_batches: int, case: Case) -> None:
    """Neurons: one sum a set. Weights: one a module, to the rank that writes it; FSDP2 has summed its own.

    Shards go to rank 0 once, which hashes the model.
    """
    num_modules, hashed = len(module.run.expected_modules), len(list(module.lm.parameters()))
    reduce_scatters = (BLOCKS + 1) * num_batches
    weights = {
        "replicated": (NUM_SETS * num_modules, 0, 0),
        "sharded": (0, NUM_SETS * num_modules + hashed, reduce_scatters),
    }
    neurons = (NUM_SETS, hashed if case.strategy == "sharded" else 0, 0)
    wanted = neurons if case.granularity == "neuron" else weights[case.strategy]
    assert (counts["reduce"], counts["gather"], counts["reduce_scatter"]) == wanted, case


def assert_nothing_left(module: SparC3Module) -> None:
    for name, parameter in module.lm.named_parameters():
        assert parameter.grad is None, name
        assert parameter.requires_grad, name


@pytest.mark.parametrize("world", [2, 4])
def test_closed_forms(world: int, model: Path) -> None:
    """Neurons under FSDP2 need no reduction; replicas send nothing in between."""
    cases = [Case(s, g, dtype="float32") for s in ("replicated", "sharded") for g in ("neuron", "weight")]
    # Stored in float32, gathered and computed in bfloat16, reduced in float32.
    half = [Case("sharded", g, dtype="bfloat16") for g in ("neuron", "weight")]
    run_distributed(count, world, str(model), [*cases, *half] if world == 2 else cases, False)


def test_responses_asked_for_before_change_nothing(model: Path) -> None:
    cases = [Case("sharded", granularity, dtype="float32") for granularity in ("neuron", "weight")]
    run_distributed(count, 2, str(model), cases, True)
