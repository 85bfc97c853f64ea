"""The bar in a terminal of 80 columns: one line, whatever it counts."""

import io
from types import SimpleNamespace
from typing import cast

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomProgress, MetricsTextColumn
from rich.console import Console

from sparc3_lightning.progress import keep_lines_whole, trainer_progress


def lines_of(total: int, whole: bool) -> list[str]:
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
    (line,) = lines_of(1884, whole=True)
    assert len(line) <= 80
    for part in ("Epoch 0/0", "942/1884", "it/s", "train/loss: 1.795"):
        assert part in line


def test_without_it_they_do_not() -> None:
    """Else the helper could go."""
    assert len(lines_of(1884, whole=False)) > 1


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
