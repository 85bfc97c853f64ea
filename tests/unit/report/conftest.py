"""The directory that a run leaves, without running one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sparc3_lightning.evaluation import Evaluator
from sparc3_lightning.files import write_json
from sparc3_lightning.runs.results import experiment_results
from sparc3_lightning.runs.run import Run
from sparc3_lightning.trials import OVERLAP_FILE
from sparc3_lightning.trials.behaviours import write_rows
from tests.unit.evaluation.fake_run import make_behaviours_run, make_run

WriteRun = Callable[..., Path]


def write_run(run: Run, directory: Path) -> Path:
    """What `predict` writes, but for config, provenance and pruned model."""
    assert run.recipe is not None
    assert run.differential is not None
    assert run.baseline is not None
    assert run.pruned is not None
    for name, score_set in [*run.score_sets.items(), ("differential", run.differential)]:
        score_set.save(directory / "scores" / name)
    run.recipe.save(directory)
    write_json(directory / "baseline_eval.json", run.baseline.to_json())
    write_json(directory / "pruned_eval.json", run.pruned.to_json())
    write_json(directory / "control_eval.json", [control.to_json() for control in run.controls])
    results = run.results or experiment_results(run, Evaluator(num_draws=200), {})
    write_json(directory / "experiment_results.json", results)
    return directory


def write_behaviours_dir(directory: Path) -> Path:
    """What a run of several behaviours writes that does not evaluate: scores, recipes, and how far they agree."""
    run = make_behaviours_run()
    for name, part in run.parts.items():
        assert part.recipe is not None
        run.score_sets[name].save(directory / "scores" / name)
        (directory / "recipes" / name).mkdir(parents=True)
        part.recipe.save(directory / "recipes" / name)
    assert run.recipe is not None
    run.recipe.save(directory)
    write_rows(run.comparison, directory / OVERLAP_FILE)
    return directory


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(make_run(), tmp_path / "version_0")
