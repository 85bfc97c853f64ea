"""The baselines' scores through `predict`: the same on one, two and four processes, replicated and sharded."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback

from callbacks import BaselineCallback, RelevanceCallback, SweepCallback
from sparc3_lightning.scoring.plain import score_baselines
from sparc3_lightning.scoring.registry import METHODS
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.trials.sweep import Grid
from tests.distributed.jobs import (
    LENGTHS,
    Case,
    FixedSamples,
    SameWeights,
    make_data,
    make_module,
    make_trainer,
    predict,
)
from tests.launch import run_distributed
from tests.tiny import tiny_llama, tiny_samples
from tests.tiny_files import tiny_tokenizer

STRATEGIES = {1: ("replicated",), 2: ("replicated", "sharded"), 4: ("sharded",)}  # by world size
GRANULARITIES = ("neuron", "weight")
SIZE = {"intermediate_size": 21}  # four ranks hold 6, 6, 6 and 3 of a layer's neurons
SETS = ("general", "toxic")
FOLLOWING = tiny_samples((1, 2, 1, 3, 1, 1, 2), seed=5)
GRID = Grid(["wanda_mean", "auroc", "random"], [3], factors=[0.0, 0.5], own_factors=[False, True], num_draws=1)


def methods(strategy: str) -> list[str]:
    return [name for name in METHODS if name != "wanda_sequential" or strategy == "replicated"]


def score(model: str, directory: str, strategies: tuple[str, ...]) -> None:
    for strategy in strategies:
        for granularity in GRANULARITIES:
            baselines = BaselineCallback(methods(strategy), signs=["abs", "signed"], seed=4)
            sweep = SweepCallback([GRID]) if granularity == "neuron" else Callback()
            callbacks = [RelevanceCallback(), baselines, sweep, SameWeights()]
            home = Path(directory) / strategy / granularity
            trainer = make_trainer(strategy, *callbacks, default_root_dir=str(home))
            data = make_data(general=FixedSamples(0), toxic=FixedSamples(1, following=FOLLOWING))
            predict(trainer, make_module(model, Case(strategy, granularity, "abs", "float64")), data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("baselines")
    tiny_llama(**SIZE).save_pretrained(directory / "model")
    tiny_tokenizer().save_pretrained(directory / "model")
    for world, strategies in STRATEGIES.items():
        arguments = (str(directory / "model"), str(directory / str(world)), strategies)
        run_distributed(score, world, *arguments) if world > 1 else score(*arguments)
    return directory


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What plain Python finds in one process, each sample alone."""
    model = tiny_llama(dtype=torch.float64, **SIZE)
    sets = {name: tiny_samples(LENGTHS, seed) for seed, name in enumerate(SETS)}
    options: dict[str, Any] = {"general": ["general"], "behaviour": "toxic", "seed": 4, "modules": "all"}
    options["behaviour_targets"] = [int(ids[0]) for ids in FOLLOWING]
    every, signs = list(METHODS), ("abs", "signed")
    return {
        granularity: score_baselines(model, sets, every, signs, batch_size=1, granularity=granularity, **options)
        for granularity in GRANULARITIES
    }


CASES = [(world, strategy) for world, strategies in STRATEGIES.items() for strategy in strategies]


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(("world", "strategy"), CASES)
def test_the_same_scores(world: int, strategy: str, granularity: str, runs: Path, alone: dict[str, Any]) -> None:
    home = runs / str(world) / strategy / granularity / "scores"
    wanted = {key: found for key, found in alone[granularity].items() if key in METHODS or key.endswith("_signed")}
    # LRP's own scores are the relevance callback's, and not made twice.
    expected = set(wanted) - {"lrp"} - set(METHODS).difference(methods(strategy))
    assert {path.name for path in home.iterdir()} == expected
    for key in expected:
        sets = {"": wanted[key].ranking} if wanted[key].ranking else wanted[key].sets
        assert set(sets) in ({""}, set(SETS))
        for name, score_set in sets.items():
            found = ScoreSet.load(home / key / name)
            assert found.manifest["options"] == score_set.manifest["options"]
            assert found.scores.keys() == score_set.scores.keys()
            for module, score in score_set.scores.items():
                largest = float(score.abs().max())
                assert largest > 0 or key.startswith("cp_lrp")  # q, k and gate get none there
                # What one step of float32, in which they are kept, explains.
                assert float((found.scores[module] - score).abs().max()) <= 3e-7 * largest, (key, name, module)


@pytest.mark.parametrize(("world", "strategy"), CASES[1:])
def test_the_same_sweep(world: int, strategy: str, runs: Path) -> None:
    def read(world: int, strategy: str) -> pd.DataFrame:
        return pd.read_parquet(runs / str(world) / strategy / "neuron" / "sweep" / "table.parquet")

    wanted, found = read(1, "replicated"), read(world, strategy)
    assert len(wanted) == 1 + len(GRID.cells())
    assert wanted["status"].eq("done").all()
    exact = ["label", "status", "num_layers", "toxicity_mean", "toxicity_mean_p", "length"]
    pd.testing.assert_frame_equal(found[exact], wanted[exact])
    for protocol in ("perplexity_sliding", "perplexity_disjoint"):
        pd.testing.assert_series_equal(found[protocol], wanted[protocol], check_exact=False, rtol=1e-9)
    # Removed, dampened and as it is.
    assert wanted["perplexity_sliding"].nunique() == len(wanted)
