"""Lightning's progress bar around loops that are not Lightning's own."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from rich.markup import escape
from rich.progress import BarColumn, ProgressColumn
from rich.table import Column


def trainer_progress(trainer: Trainer, items: Iterable[Any], total: int, description: str) -> Iterator[Any]:
    """Yield the items under a bar of the trainer's own kind, with a rate; silently where it shows none."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.progress is not None and not bar.is_disabled:
        keep_lines_whole(trainer)
        task = bar.progress.add_task(escape(description), total=total)
        for item in items:
            yield item
            bar.progress.advance(task)
        # What is done makes room: a run has dozens of such loops. At once, or a line that Lightning logs past the bar
        # would leave it standing.
        bar.progress.update(task, visible=False)
        bar.progress.refresh()
    elif isinstance(bar, TQDMProgressBar) and not bar.is_disabled:
        yield from Tqdm(
            items, total=total, desc=description, file=sys.stdout, smoothing=0, dynamic_ncols=True,
            bar_format=bar.BAR_FORMAT, position=2 * bar.process_position, leave=True,
        )  # fmt: skip
    else:
        yield from items


def keep_lines_whole(trainer: Trainer) -> None:
    """Where room is short, let the bar itself shrink: rich would rather break figures into two lines."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.progress is not None:
        for column in bar.progress.columns:
            if isinstance(column, ProgressColumn) and not isinstance(column, BarColumn):
                column._table_column = Column(no_wrap=True)


def stop_bar(trainer: Trainer) -> None:
    """End a live bar early, so that what is printed next stays below it."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.progress is not None:
        bar.progress.stop()
