"""Predict through Lightning's Trainer on one GPU with NCCL: replicated and FSDP2 give what plain Python gives."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy

from callbacks import RelevanceCallback
from sparc3_lightning import attribute
from tests.distributed.jobs import LENGTHS, Case, make_module, predict, reduced_scores
from tests.launch import run_distributed
from tests.tiny import tiny_llama, tiny_samples
from tests.tiny_files import tiny_tokenizer

CASES = [Case(strategy, granularity, "abs", dtype) for strategy in ("replicated", "sharded")
         for granularity in ("neuron", "weight") for dtype in ("float32", "bfloat16")]  # fmt: skip


def job(model: str, directory: str) -> None:
    for case in CASES:
        trainer = Trainer(
            accelerator="gpu", devices=1, strategy=ModelParallelStrategy(1, 1) if case.strategy == "sharded" else "ddp",
            callbacks=[RelevanceCallback()], use_distributed_sampler=False, inference_mode=False, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        with reduced_scores() as found:
            predict(trainer, make_module(model, case, target="token:7"))
        assert "nccl" in torch.distributed.get_backend_config()
        torch.save(found, Path(directory) / f"{case.name}.pt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is here")
    directory = tmp_path_factory.mktemp("runs")
    tiny_llama().save_pretrained(directory / "model")
    tiny_tokenizer().save_pretrained(directory / "model")
    run_distributed(job, 1, str(directory / "model"), str(directory))
    return directory


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_scores(case: Case, runs: Path) -> None:
    found = torch.load(runs / f"{case.name}.pt", weights_only=True)
    model = tiny_llama(dtype=getattr(torch, case.dtype)).cuda()
    for scores, seed in zip(found, (0, 1), strict=True):
        samples = tiny_samples(LENGTHS, seed)
        wanted = attribute(model, samples, case.granularity, target=7, modules="all", batch_size=2).scores  # type: ignore[arg-type]
        assert scores.keys() == wanted.keys()
        for name, score in wanted.items():
            tolerance = 1e-4 if case.dtype == "float32" else 5e-2  # in bfloat16 other batches, other roundings
            assert float((scores[name].cpu() - score.cpu()).norm() / score.cpu().norm()) < tolerance, name
