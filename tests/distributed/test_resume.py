"""Two ranks: a signal to one stops both after the same batch, and what was saved goes on as if nothing had been."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks import RelevanceCallback, ResumeCallback, ScoreWriter
from sparc3_lightning.distributed.ranks import any_rank, rank_and_world_size
from sparc3_lightning.lrp.targets import NEXT_TOKEN
from sparc3_lightning.runs import resume
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.distributed.jobs import AGAINST, Case, following, make_data, make_module, make_trainer, predict
from tests.launch import run_distributed
from tests.tiny_files import save_tiny_model

STRATEGIES = ("replicated", "sharded")
CASES = [Case(strategy, granularity) for strategy in STRATEGIES for granularity in ("neuron", "weight")]
CASES += [Case("sharded", "weight", dtype="bfloat16")]  # shards in float32, computed in bfloat16
CASES += [Case(strategy, "weight", "signed", target=NEXT_TOKEN) for strategy in STRATEGIES]  # each sample's own word


class Signal(Callback):
    """The last rank alone gets a signal while it works on a batch of the second set."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.global_rank == trainer.world_size - 1 and (dataloader_idx, batch_idx) == (1, self.batch):
            os.kill(os.getpid(), signal.SIGUSR1)


class Count(Callback):
    """How many batches were attributed, not passed over."""

    num = 0

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.num += len(outputs) > 0


def run(
    directory: Path, model: str, case: Case, *more: Callback, resume: ResumeCallback | None = None, batch_size: int = 2
) -> int:
    count = Count()
    listed = (*more, RelevanceCallback(), ScoreWriter(), resume or ResumeCallback(minutes=None), count)
    trainer = make_trainer(case.strategy, *listed, default_root_dir=str(directory))
    predict(trainer, make_module(model, case), make_data(batch_size, **case.sets()))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # rank 0 has written, and cleared away
    return count.num


def same_scores(one: Path, other: Path) -> bool:
    for name in ("general", "toxic"):
        ours, theirs = (ScoreSet.load(directory / "scores" / name) for directory in (one, other))
        if ours.manifest["data"] != theirs.manifest["data"]:
            return False
        if any(not torch.equal(score, theirs.scores[layer]) for layer, score in ours.scores.items()):
            return False
    return True


def stopped_and_resumed(model: str, home: str) -> None:
    for case in CASES:
        whole, broken = Path(home, "whole", case.name), Path(home, "broken", case.name)
        assert run(whole, model, case) == 4
        assert not (whole / "resume").exists()
        with pytest.raises(SystemExit) as ended:
            run(broken, model, case, Signal(0))
        assert ended.value.code == 75
        saved = json.loads((broken / "resume" / "state.json").read_text())
        assert (saved["set_name"], saved["num_batches"]) == ("toxic", 1)
        assert sorted(saved["files"]) == ["rank0-0.safetensors", "rank1-0.safetensors"]
        assert sorted(index for pairs in saved["explained"] for index, _ in pairs) == sorted(
            {index for pairs in saved["explained"] for index, _ in pairs}
        )
        assert run(broken, model, case) == 1, "one batch was left"
        assert same_scores(whole, broken)
        assert not (broken / "resume").exists()
        data = ScoreSet.load(broken / "scores" / "toxic").manifest["data"]
        if case.target == NEXT_TOKEN:
            assert data["target_ids"] == [int(ids[0]) for ids in following(1)]
            assert data["against_ids"] == list(AGAINST)


def test_a_signal_to_one_rank_stops_both_and_scores_are_the_same(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    run_distributed(stopped_and_resumed, 2, str(tmp_path / "model"), str(tmp_path))


def full_disk_on_one_rank(model: str, home: str) -> None:
    """The second save fails on rank 1 alone; both say so, and the first save is what the next run goes on with."""
    write_sums, calls = resume.write_sums, []

    def write(directory: Path, prefix: str, sums: Mapping[str, torch.Tensor]) -> dict[str, str]:
        calls.append(directory)
        if prefix == "rank1-" and len(calls) == 2:
            raise OSError(27, "File too large", str(directory))
        return write_sums(directory, prefix, sums)

    case, directory = Case("sharded", "weight"), Path(home, "full")
    often = ResumeCallback(minutes=None, num_samples=1)
    failing = mock.patch("sparc3_lightning.runs.resume.write_sums", write)
    with failing, pytest.raises(OSError, match=r"on rank 1: .*File too large.*resume"):
        run(directory, model, case, resume=often, batch_size=1)
    torch.distributed.barrier()
    saved = json.loads((directory / "resume" / "state.json").read_text())
    assert (saved["set_name"], saved["num_batches"]) == ("general", 1)
    assert [path.name for path in (directory / "resume").iterdir() if path.is_dir()] == [saved["directory"]]
    assert run(directory, model, case, batch_size=1) == 7, "one of eight batches was done"


def test_one_rank_that_cannot_write(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    run_distributed(full_disk_on_one_rank, 2, str(tmp_path / "model"), str(tmp_path))


def other_world(model: str, directory: str, interrupt: bool) -> None:
    if interrupt:
        with pytest.raises(SystemExit):
            run(Path(directory), model, Case(), Signal(0))
    else:
        with pytest.raises(ValueError, match=r"cannot go on.*`trainer\.world_size` was 2 and is 1"):
            run(Path(directory), model, Case())
        with pytest.raises(ValueError, match=r"`resume` is 'never', and .* holds an unfinished run"):
            run(Path(directory), model, Case(), resume=ResumeCallback(resume="never"))
        with pytest.raises(ValueError, match=r"`resume` is 'must', and .* holds no unfinished run"):
            run(Path(directory, "empty"), model, Case(), resume=ResumeCallback(resume="must"))


def test_another_world_size_is_refused(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    run_distributed(other_world, 2, str(tmp_path / "model"), str(tmp_path / "run"), True)
    run_distributed(other_world, 1, str(tmp_path / "model"), str(tmp_path / "run"), False)


def ask_four() -> None:
    torch.distributed.init_process_group("gloo")
    rank, _ = rank_and_world_size()
    assert any_rank([rank == 3, False, rank == 0], torch.device("cpu")) == [True, False, True]


def test_a_flag_on_any_of_four_ranks() -> None:
    run_distributed(ask_four, 4)
    assert any_rank([True, False], torch.device("cpu")) == [True, False]
