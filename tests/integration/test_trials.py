"""Killed in an evaluation and in a compression: one trial is lost each time, and none is measured twice."""

import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from sparc3_lightning.evaluation.evaluator import Evaluator
from tests.integration.test_resume import ended, results, start
from tests.runs import BRIEF, QUIET, ROOT, TINY, command, read

pytestmark = QUIET

# The baseline, the pruned model and five controls; a cell of two, since the other is the pruned model; two compressed.
NUM_TRIALS = 7 + 1 + 2


def config(path: Path) -> Path:
    """The tiny experiment, a sweep and a compression in one run."""
    content = read(ROOT / TINY)
    listed = content["trainer"]["callbacks"]
    for callback in listed:
        if callback["class_path"] == "callbacks.EvaluationCallback":
            callback["init_args"] = {"num_control_draws": 5}
    grid = {"methods": ["lrp"], "num_neurons": [8, 16]}
    listed += [
        {"class_path": "callbacks.SweepCallback", "init_args": {"grids": [grid]}},
        {
            "class_path": "callbacks.CompressionCallback",
            "init_args": {"methods": ["magnitude", "random"], "sparsities": [0.5]},
        },
    ]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def predict(path: Path, save_dir: Path, begun: Path, dies_in: int | None = None, *options: str) -> None:
    """Run; note each trial that is begun; die when the text of the `dies_in`-th is read, its completions not begun."""
    original, calls = Evaluator.perplexity, []

    def noted(*args: Any, **arguments: Any) -> Any:
        calls.append(1)
        with begun.open("a") as file:
            file.write("trial\n")
        found = original(*args, **arguments)
        if len(calls) == dies_in:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    with mock.patch.object(Evaluator, "perplexity", noted):
        command("predict", path, save_dir, *BRIEF, *options)


def num_begun(begun: Path) -> int:
    return len(begun.read_text().splitlines()) if begun.exists() else 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def killed(home: Path) -> Path:
    """The directory of a run that was killed twice."""
    path, begun = config(home / "run.yaml"), home / "begun"
    for dies_in, so_far in ((4, 4), (7, 4 + 7)):  # the second time the first three are known
        assert ended(start(predict, path, home, begun, dies_in)) == -signal.SIGKILL
        assert num_begun(begun) == so_far
    (directory,) = (home / "tiny").iterdir()
    assert len(list((directory / "trials").glob("*.json"))) == NUM_TRIALS - 1
    assert ended(start(predict, path, home, begun)) == 0
    return directory


def test_a_kill_loses_one_trial(killed: Path, home: Path) -> None:
    assert num_begun(home / "begun") == NUM_TRIALS + 2
    assert [path.suffix for path in (killed / "trials").iterdir()] == [".json"] * NUM_TRIALS, "no lock, nothing half"
    seconds = read(killed / "experiment_results.json")["seconds"]
    assert all(seconds[f"evaluation: {name}"] > 0 for name in ("baseline", "pruned", "control"))


def test_the_figures_are_those_of_a_run_that_was_not_killed(killed: Path, home: Path) -> None:
    """It has trials of its own; and measures the baseline once for evaluation, sweep and compression."""
    begun = home / "undisturbed"
    assert ended(start(predict, home / "run.yaml", home / "other", begun)) == 0
    assert num_begun(begun) == NUM_TRIALS
    (directory,) = (home / "other" / "tiny").iterdir()
    assert results(directory) == results(killed)
    for table in ("sweep/table.csv", "compression/table.csv"):
        assert without_reuse(directory / table) == without_reuse(killed / table)


def without_reuse(table: Path) -> list[str]:
    return [line.replace(",True", "").replace(",False", "") for line in table.read_text().splitlines()]


def test_another_run_reads_what_this_one_has_measured(killed: Path, home: Path) -> None:
    begun, shared = home / "shared", f"--model.trials_dir={killed / 'trials'}"
    # Attributed in other batches, and by other statistics: the same trials.
    options = (shared, "--data.batch_size=5", "--model.evaluator.init_args.statistics_seed=1")
    assert ended(start(predict, home / "run.yaml", home / "sharing", begun, None, *options)) == 0
    assert num_begun(begun) == 0
    (directory,) = (home / "sharing" / "tiny").iterdir()
    assert not (directory / "trials").exists()
    assert results(directory)["control_eval.json"] == results(killed)["control_eval.json"]
