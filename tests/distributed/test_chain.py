"""The whole of predict on two processes, replicated and sharded, through the command line's entry: as one process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.distributed.jobs import SameWeights
from tests.launch import PATIENCE, run_distributed
from tests.runs import BRIEF, ROOT, TINY, command, written

STRATEGIES = {
    "replicated": ["--trainer.strategy=ddp"],
    "sharded": [
        "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy",
        "--trainer.strategy.init_args.data_parallel_size=2",
        "--trainer.strategy.init_args.tensor_parallel_size=1",
    ],
}
NOT_COMPARED = {"seconds", "throughput"}  # of the results file


def whole_predict(directory: str, *options: str) -> None:
    same_weights = f"--trainer.callbacks+={SameWeights.__module__}.{SameWeights.__qualname__}"
    cli = command("predict", TINY, Path(directory), "--model.dtype=float64", *BRIEF, *options, same_weights)
    assert len(cli.trainer.callbacks) >= 6


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("chain")
    run_distributed(whole_predict, 1, str(directory / "one"))
    for name, options in STRATEGIES.items():
        run_distributed(whole_predict, 2, str(directory / name), "--trainer.devices=2", *options)
    return directory


def run_directory(runs: Path, name: str) -> Path:
    """The one run directory that there must be."""
    (directory,) = (runs / name / "tiny").iterdir()
    assert directory.name == "version_0"
    return directory


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", STRATEGIES)
def test_two_processes_leave_what_one_leaves(name: str, runs: Path) -> None:
    one, two = run_directory(runs, "one"), run_directory(runs, name)

    def files(directory: Path) -> list[str]:
        return ["events" if "tfevents" in file else file for file in written(directory)]

    assert files(two) == files(one)
    assert files(two).count("events") == 1
    for file in written(one / "scores"):
        if file.endswith(".safetensors"):
            scores, scores_wanted = load_file(two / "scores" / file), load_file(one / "scores" / file)
            assert scores.keys() == scores_wanted.keys()
            for module, wanted in scores_wanted.items():
                assert (scores[module] - wanted).abs().max() <= 1e-6 * wanted.abs().max()
    recipe, recipe_wanted = (read_json(path / "pruned_neurons.json") for path in (two, one))
    assert [(n["layer"], n["index"]) for n in recipe["neurons"]] == [
        (n["layer"], n["index"]) for n in recipe_wanted["neurons"]
    ]
    assert recipe["base_model"] == recipe_wanted["base_model"]
    weights = "pruned_model/model.safetensors"
    assert (two / weights).read_bytes() == (one / weights).read_bytes()


@pytest.mark.parametrize("name", STRATEGIES)
def test_two_processes_find_what_one_finds(name: str, runs: Path) -> None:
    one, two = run_directory(runs, "one"), run_directory(runs, name)
    for evaluation in ("baseline", "pruned", "control"):
        wanted, found = (read_json(path / f"{evaluation}_eval.json") for path in (one, two))
        assert close(found, wanted)
    wanted, found = (read_json(path / "experiment_results.json") for path in (one, two))
    assert found.keys() == wanted.keys() > NOT_COMPARED
    assert [key for key in wanted.keys() - NOT_COMPARED if not close(found[key], wanted[key])] == []


def close(found: Any, wanted: Any) -> bool:
    """Equal JSON, but for rounding."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(close(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    if isinstance(wanted, float):
        return bool(found == pytest.approx(wanted, rel=1e-6, abs=1e-12))
    return bool(found == wanted)


@pytest.mark.parametrize("name", STRATEGIES)
def test_as_a_user_types_it(name: str, runs: Path, tmp_path: Path) -> None:
    """torchrun on the command line, from the project's root; only the scores."""
    options = [
        "--model.dtype=float64", f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.devices=2",
        "--trainer.enable_progress_bar=false", *STRATEGIES[name],
        '--trainer.callbacks=[{"class_path": "callbacks.RelevanceCallback"}, {"class_path": "callbacks.ScoreWriter"}]',
    ]  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    entry = ["-m", "sparc3_lightning", "predict", "--config", TINY]
    done = subprocess.run([*torchrun, *entry, *options], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    one, two = run_directory(runs, "one") / "scores", tmp_path / "tiny" / "version_0" / "scores"
    assert sorted(path.name for path in two.iterdir()) == ["general_seed0", "general_seed1", "general_seed2", "toxic"]
    for name in ("general_seed0", "toxic"):
        found, wanted = (load_file(path / name / "scores.safetensors") for path in (two, one))
        assert all((found[n] - score).abs().max() <= 1e-6 * score.abs().max() for n, score in wanted.items())
