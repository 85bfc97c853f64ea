"""The bar in a terminal of 80 columns: one line, whatever it counts; and lines where there is no terminal."""

import io
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest
import rich
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomProgress, MetricsTextColumn
from rich.console import Console

from sparc3_lightning.loops import Counted, Lines
from sparc3_lightning.progress import (
    ProgressLines,
    announce,
    keep_lines_whole,
    lines_for_bar,
    lines_of,
    trainer_progress,
)


def shown_lines(total: int, whole: bool) -> list[str]:
    """What is shown of a fit, as Lightning builds it."""
    bar, console = RichProgressBar(), Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    trainer = cast(Trainer, SimpleNamespace(progress_bar_callback=bar, state=SimpleNamespace(fn="fit"), training=False,
                                            sanity_checking=False))  # fmt: skip
    metrics = MetricsTextColumn(trainer, "white", " ", ".3f")
    metrics.update({"train/loss": 1.795})
    bar.progress = CustomProgress(*bar.configure_columns(trainer), metrics, console=console)
    bar.train_progress_bar_id = bar.progress.add_task("Epoch 0/0 ", total=total, completed=total // 2)
    if whole:
        keep_lines_whole(trainer)
    console.print(bar.progress.get_renderable())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_figures_stay_on_one_line() -> None:
    (line,) = shown_lines(1884, whole=True)
    assert len(line) <= 80
    for part in ("Epoch 0/0", "942/1884", "it/s", "train/loss: 1.795"):
        assert part in line


def test_without_it_they_do_not() -> None:
    """Else the helper could go."""
    assert len(shown_lines(1884, whole=False)) > 1


def test_loops_that_are_not_lightning_s_stay_on_one_line() -> None:
    bar, console = RichProgressBar(), Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    trainer = cast(Trainer, SimpleNamespace(progress_bar_callback=bar))
    bar.progress = CustomProgress(*bar.configure_columns(trainer), console=console)
    for _ in trainer_progress(trainer, range(2), 2, "control 5 perplexity (sliding)"):
        console.print(bar.progress.get_renderable())
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line[:30] for line in lines] == ["control 5 perplexity (sliding)"] * 2
    assert all("-:--:--" in line and "it/s" in line for line in lines)


def test_a_bar_is_there_while_data_is_read() -> None:
    """Before Lightning starts it; rank 0's alone."""
    bar = RichProgressBar()
    trainer = cast(Trainer, SimpleNamespace(progress_bar_callback=bar, state=SimpleNamespace(fn="predict")))
    try:
        seen = [(item, bar.progress and [task.description for task in bar.progress.tasks])
                for item in trainer_progress(trainer, range(2), 2, "choose words")]  # fmt: skip
        assert seen == [(0, ["choose words"]), (1, ["choose words"])]
        first = bar.progress
        with mock.patch.object(bar, "refresh") as drawn:
            list(trainer_progress(trainer, range(3), 3, "choose words"))
        assert drawn.call_count == 3, "or it would stand at 0"
        bar.on_predict_start(trainer, cast(LightningModule, None))
        assert bar.progress is first
    finally:
        bar._stop_progress()
    bar = RichProgressBar()
    bar.disable()
    trainer = cast(Trainer, SimpleNamespace(progress_bar_callback=bar))
    assert list(trainer_progress(trainer, range(2), 2, "choose words")) == [0, 1]
    assert bar.progress is None


def lines_and_what_they_say() -> tuple[ProgressLines, list[str], list[float]]:
    said, now = list[str](), [0.0]
    return ProgressLines(Lines(said.append, lambda: now[0])), said, now


def test_loops_have_lines_where_no_bar_is_seen() -> None:
    bar, said, now = lines_and_what_they_say()
    trainer = cast(Trainer, SimpleNamespace(progress_bar_callback=bar))
    for _ in trainer_progress(trainer, Counted(range(3), "windows", 3), 3, "baseline perplexity"):
        now[0] += 30
    assert said == ["baseline perplexity: 3 windows", "baseline perplexity: 2 of 3 windows, 2.0 per min, 0:30 left"]
    announce(trainer, "saving the pruned model")
    assert said[-1] == "saving the pruned model"
    assert lines_of(trainer) is bar.lines


def test_other_ranks_are_silent() -> None:
    bar, said, _ = lines_and_what_they_say()
    trainer = cast(Trainer, SimpleNamespace(progress_bar_callback=bar, is_global_zero=False))
    bar.setup(trainer, cast(LightningModule, None), "predict")
    assert list(trainer_progress(trainer, range(3), 3, "sweep")) == [0, 1, 2]
    announce(trainer, "saving the pruned model")
    assert (said, lines_of(trainer)) == ([], None)


def test_without_a_bar_there_are_no_lines() -> None:
    trainer = cast(Trainer, SimpleNamespace(progress_bar_callback=None))
    assert (list(trainer_progress(trainer, range(2), 2, "sweep")), lines_of(trainer)) == ([0, 1], None)


def test_training_counts_steps() -> None:
    bar, said, now = lines_and_what_they_say()
    trainer = cast(Any, SimpleNamespace(progress_bar_callback=bar, global_step=0, estimated_stepping_batches=10))
    bar.on_train_start(trainer, cast(LightningModule, None))
    for batch in range(6):  # two batches a step
        now[0] += 20
        trainer.global_step = (batch + 1) // 2
        list(trainer_progress(trainer, range(1), 1, "perplexity (sliding)"))  # as validation does: no line of its own
        bar.on_train_batch_end(trainer)
    bar.on_train_end(trainer, cast(LightningModule, None))
    assert said == [
        "training: 10 steps",
        "training: 1 of 10 steps, 1.0 per min, 9:00 left",
        "training: 3 of 10 steps, 2.0 per min, 3:30 left",
    ]
    assert bar.lines.depth == 0


@pytest.mark.parametrize(
    ("terminal", "term", "is_seen"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_lines_take_a_bar_s_place_where_it_is_not_seen(
    terminal: bool, term: str, is_seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, _environ={"TERM": term})
    monkeypatch.setattr(rich, "get_console", lambda: console)
    assert len(lines_for_bar([], is_asked=True)) == (not is_seen)
    assert lines_for_bar([], is_asked=False) == [], "`trainer.enable_progress_bar: false` is for both"
    assert lines_for_bar([TQDMProgressBar()], is_asked=True) == [], "what the config lists stays"
