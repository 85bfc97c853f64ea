"""Compressed models through `predict`: the same on one, two and four processes, replicated and sharded."""

from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoModelForCausalLM

from callbacks import CompressionCallback, RelevanceCallback, ScoreWriter
from sparc3_lightning.trials.compress import Compression
from tests.distributed.jobs import Case, SameWeights, make_module, make_trainer, predict
from tests.launch import run_distributed
from tests.tiny_files import same_weights, save_tiny_model

STRATEGIES = {1: ("replicated",), 2: ("replicated", "sharded"), 4: ("sharded",)}  # by world size
METHODS = ["lrp", "wanda_sequential", "wanda", "magnitude", "random"]
CASES = [(world, strategy) for world, strategies in STRATEGIES.items() for strategy in strategies]


def compress(model: str, directory: str, strategies: tuple[str, ...]) -> None:
    for strategy in strategies:
        callback = CompressionCallback(
            METHODS, [0.3], pattern="2:4", signs=["abs"], save=Compression("wanda_sequential", pattern="2:4")
        )
        callbacks = [RelevanceCallback(), ScoreWriter(), callback, SameWeights()]
        trainer = make_trainer(strategy, *callbacks, default_root_dir=str(Path(directory) / strategy))
        predict(trainer, make_module(model, Case(strategy, "weight", "abs", "float64")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("compression")
    save_tiny_model(directory / "model")
    for world, strategies in STRATEGIES.items():
        arguments = (str(directory / "model"), str(directory / str(world)), strategies)
        run_distributed(compress, world, *arguments) if world > 1 else compress(*arguments)
    return directory


@pytest.mark.parametrize(("world", "strategy"), CASES[1:])
def test_the_same_models(world: int, strategy: str, runs: Path) -> None:
    wanted, found = (
        pd.read_parquet(runs / str(size) / name / "compression" / "table.parquet")
        for size, name in ((1, "replicated"), (world, strategy))
    )
    assert len(wanted) == 1 + 2 * len(METHODS)
    assert wanted["status"].eq("done").all()
    exact = ["label", "status", "share", "pattern"]
    pd.testing.assert_frame_equal(found[exact], wanted[exact])
    numbers = [name for name in wanted if name.startswith("perplexity") and not name.endswith("_p")]
    pd.testing.assert_frame_equal(found[numbers], wanted[numbers], check_exact=False, rtol=1e-7, atol=1e-9)
    assert wanted["perplexity_sliding"].nunique() == len(wanted)
    saved = [
        AutoModelForCausalLM.from_pretrained(runs / str(size) / name / "compressed_model")
        for size, name in ((1, "replicated"), (world, strategy))
    ]
    assert same_weights(*saved)
