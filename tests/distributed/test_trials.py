"""Trials of several processes: measured together, kept by one, read by all."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from callbacks import CompressionCallback, RelevanceCallback, SweepCallback
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.trials.sweep import Grid
from tests.distributed.jobs import FixedSamples, FixedText, SameWeights, make_module, make_trainer, predict
from tests.launch import run_distributed
from tests.tiny_files import save_tiny_model


def measured(model: str, strategy: str, home: str) -> int:
    """How many trials a sweep of two cells and a compression of two models measure."""
    calls, original = [], Evaluator.evaluate

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return original(*args, **options)

    many = [SweepCallback([Grid(["lrp"], [2, 3])])]
    many += [CompressionCallback(["magnitude", "random"], [0.5])]
    data = SparC3DataModule(
        {"general": FixedSamples(0)}, {"toxic": FixedSamples(1)}, evaluation_text=FixedText(), batch_size=2
    )
    trainer = make_trainer(strategy, RelevanceCallback(), *many, SameWeights(), default_root_dir=home)
    with mock.patch.object(Evaluator, "evaluate", counted):
        predict(trainer, make_module(model), data)
    return len(calls)


def measure_twice(model: str, strategy: str, home: str) -> None:
    assert measured(model, strategy, home) == 5, "one baseline"
    files = sorted(Path(home, "trials").iterdir())
    assert [file.suffix for file in files] == [".json"] * 5
    assert measured(model, strategy, home) == 0
    if int(make_trainer(strategy).global_rank) == 0:
        files[0].write_text(files[0].read_text()[:-30])
    assert measured(model, strategy, home) == 1, "every rank measures what one has found damaged"


@pytest.mark.parametrize("strategy", ["replicated", "sharded"])
def test_what_is_kept_is_not_measured_again(strategy: str, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    run_distributed(measure_twice, 2, str(tmp_path / "model"), strategy, str(tmp_path))
