"""configs/tiny/sweep.yaml as a user runs it, twice: the second run reads what the first has evaluated."""

import contextlib
import io
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
from rich.console import Console

from callbacks import BaselineCallback, SweepCallback
from sparc3_lightning.cli import run
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.main import main
from sparc3_lightning.report.terminal import print_experiment
from sparc3_lightning.trials.sweep import Grid
from tests.distributed.jobs import make_data, make_module, make_trainer, predict
from tests.runs import BRIEF, QUIET, ROOT, TINY, command, log_dir
from tests.tiny_files import save_tiny_model

pytestmark = QUIET
SWEEP = ROOT / "configs" / "tiny" / "sweep.yaml"


class Run:
    """What a run has left and how often the evaluator was asked."""

    def __init__(self, home: Path, failing: int | None = None) -> None:
        self.calls, original = 0, Evaluator.evaluate

        def counted(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == failing:
                raise RuntimeError("made to fail")
            return original(*args, **options)

        shared = f"--model.trials_dir={home / 'trials'}"
        with mock.patch.object(Evaluator, "evaluate", counted):
            self.directory = log_dir(command("predict", TINY, home, "--config", str(SWEEP), *BRIEF, shared))
        self.table = pd.read_parquet(self.directory / "sweep" / "table.parquet")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def first(home: Path) -> Run:
    """Its tenth evaluation fails: after the baseline, the pruned model and three controls, a cell's."""
    with pytest.warns(UserWarning, match="1 cells of the sweep failed, such as: "):
        return Run(home, failing=10)


@pytest.fixture(scope="module")
def second(home: Path, first: Run) -> Run:
    return Run(home)


def test_every_cell_has_a_row_and_the_failed_one_says_why(first: Run) -> None:
    table = first.table
    assert table["label"].is_unique
    assert table["status"].value_counts().to_dict() == {"done": len(table) - 1, "failed": 1}
    (error,) = table.loc[table["status"] == "failed", "error"]
    assert error == "RuntimeError: made to fail"
    done = table[table["status"] == "done"]
    assert done[["perplexity_sliding", "toxicity_mean"]].notna().all().all()
    assert set(done["key"]) >= {"baseline", "lrp", "lrp_signed", "wanda", "auroc", "magnitude", "random", "gradient"}


def test_the_run_s_own_selection_is_a_cell_with_the_same_figures(first: Run) -> None:
    import json

    pruned = json.loads((first.directory / "pruned_eval.json").read_text())
    row = first.table.set_index("label").loc["lrp, k 8, global"]
    assert row["toxicity_mean"] == pruned["toxicity"]["attributes"]["toxicity"]["mean"]
    assert row["perplexity_sliding"] == pruned["perplexity"]["sliding"]["perplexity"]


def test_scores_and_figures_are_written(first: Run) -> None:
    scores = {path.name for path in (first.directory / "scores").iterdir()}
    assert {"general_seed0", "toxic", "differential", "lrp_signed", "wanda", "auroc", "random"} <= scores
    figures = {path.name for path in (first.directory / "sweep" / "figures").iterdir()}
    assert {"pareto_sliding.png", "size_global.svg", "overlap_global_4.png", "seeds_global.png"} <= figures


def test_the_page_shows_both_and_is_made_again(first: Run) -> None:
    page = first.directory / "report.html"
    before = page.read_bytes()
    for said in (b"8 neurons removed from", b'<section id="sweep">', b"Failed: ", b"RuntimeError: made to fail"):
        assert said in before, said
    assert before.count(b"<img") == sum(
        len(list((first.directory / where).glob("*.svg"))) for where in ("figures", "sweep/figures")
    )
    page.unlink()
    main(["report", str(first.directory)])
    assert page.read_bytes() == before


def test_inspect_prints_what_the_run_has_printed(home: Path, second: Run, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(second.directory)])
    whole = capsys.readouterr().out
    main(["inspect", str(second.directory / "sweep" / "table.csv")])
    alone = capsys.readouterr().out
    assert "At a price in perplexity (sliding)" in alone
    assert alone in whole
    printed = io.StringIO()
    print_experiment("sweep", second.directory / "sweep", Console(file=printed, width=80))
    assert printed.getvalue().strip() == alone.strip()


def test_a_second_run_evaluates_what_failed_and_no_more(first: Run, second: Run) -> None:
    assert second.calls == 1
    assert (second.table["status"] == "done").all()
    known = first.table.set_index("label")
    again = second.table.set_index("label").loc[known.index]
    same = known["status"] == "done"
    for column in ("toxicity_mean", "perplexity_sliding", "toxicity_mean_p", "fingerprint"):
        pd.testing.assert_series_equal(again.loc[same, column], known.loc[same, column])


@pytest.mark.parametrize(("name", "at_least"), [("sweep.yaml", 150), ("contrast.yaml", 13)])
def test_real_text_configs_are_built(name: str, at_least: int, fixtures: Path, tmp_path: Path) -> None:
    words = []
    for config in ("realtext.yaml", "two_scorers.yaml", name):
        text = (ROOT / "tests" / "configs" / config).read_text()
        (tmp_path / config).write_text(text.replace("../shared/fixtures/", f"{fixtures}/"))
        words += ["--config", str(tmp_path / config)]
    with contextlib.chdir(ROOT):
        cli: Any = run(words, execute=False)
    baselines, sweep = (
        next(found for found in cli.trainer.callbacks if isinstance(found, kind))
        for kind in (BaselineCallback, SweepCallback)
    )
    assert {cell.key for cell in sweep.cells} <= set(baselines.keys) | {"lrp"}
    assert len(sweep.cells) >= at_least
    assert cli.model.evaluator.scorer.name == "detoxify-toxicity_scorer + detoxify-second_scorer"


@pytest.mark.parametrize(
    ("grid", "callbacks", "said"),
    [
        (Grid(["lrp"], [4]), [], "must list|needs scores of|relevance"),
        (Grid(["wanda", "lrp"], [4]), ["relevance"], r"needs scores of \['wanda'\], got those of \['lrp'\]"),
        (Grid(["lrp"], [4], signs=["signed"]), ["relevance"], r"needs scores of \['lrp_signed'\]"),
        (Grid(["lrp"], [49]), ["relevance"], "`num_neurons` must be at most 48, got 49"),
    ],
)
def test_refused_before_any_work(grid: Grid, callbacks: list[str], said: str, tmp_path: Path) -> None:
    from callbacks import RelevanceCallback

    save_tiny_model(tmp_path)
    before = [RelevanceCallback() for _ in callbacks]
    with pytest.raises(ValueError, match=said):
        predict(
            make_trainer("replicated", *before, SweepCallback([grid])), make_module(str(tmp_path)),
            make_data(),
        )  # fmt: skip
