"""A run whose output is no terminal, as under SLURM or nohup: it says what it does."""

import subprocess
import sys

import pytest

from tests.runs import BRIEF, ROOT, TINY


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    home = tmp_path_factory.mktemp("lines")
    words = ["predict", "--config", TINY, f"--trainer.logger.init_args.save_dir={home}", *BRIEF]
    run = [sys.executable, "-m", "sparc3_lightning", *words]
    return subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)


def test_every_stage_says_that_it_starts(shown: subprocess.CompletedProcess[str]) -> None:
    stages = [
        "loading the model", "reading the data", "evaluation: 5 models (baseline, pruned, 3 controls), ",
        "attribution of general_seed0: ", "attribution of toxic: 19 samples", "evaluation: 5 models, about 0:",
        "baseline perplexity (sliding): 64 windows", "baseline generate and ", "evaluation: baseline took ",
        "pruned generate and score: ", "control 3 perplexity (disjoint): ",
        "drawing the figures and writing the page",
    ]  # fmt: skip
    begun = [shown.stderr.find(f"\n{stage}") for stage in stages]
    assert -1 not in begun, stages[begun.index(-1)]
    assert begun == sorted(begun)
    assert "4 more of this kind: about 0:" in shown.stderr


def test_results_stay_alone_on_standard_output(shown: subprocess.CompletedProcess[str]) -> None:
    assert "Pruned against baseline" in shown.stdout
    assert not any(word in shown.stdout for word in ("attribution of toxic:", "forward passes", " windows\n"))
