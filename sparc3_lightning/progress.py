"""How far a run has come: Lightning's bar around loops that are not its own too; lines where no bar can be drawn."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import rich
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from rich.markup import escape
from rich.progress import BarColumn, ProgressColumn
from rich.table import Column

from sparc3_lightning.loops import Lines, Stage, to_standard_error


class ProgressLines(ProgressBar):
    """In a bar's place where the output is no terminal: a line when a loop starts, then at most one a minute.

    Loops of the run's own go by `trainer_progress`; this is told of Lightning's training. Rank 0 alone speaks, of its
    own share where samples are shared out.

    Args:
        lines: What says them; default: standard error, by the clock.
    """

    def __init__(self, lines: Lines | None = None) -> None:
        super().__init__()
        self.lines, self.is_enabled = lines or Lines(), True
        self._training: Stage | None = None
        self._num_steps = 0

    def enable(self) -> None:
        """Speak."""
        self.is_enabled = True

    def disable(self) -> None:
        """Be silent, as Lightning asks of every rank but 0."""
        self.is_enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how many steps there are."""
        total = trainer.estimated_stepping_batches
        if self.is_enabled:
            steps = None if total == float("inf") else int(total)
            self._training = self.lines.begin("training", steps, "steps", trainer.global_step)
            self._num_steps = trainer.global_step
            self.lines.depth += 1

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Count a step, which may be several batches."""
        if self._training is not None:
            self._training.advance(trainer.global_step - self._num_steps)
            self._num_steps = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing more is counted."""
        if self._training is not None:
            self.lines.depth -= 1
            self._training = None


def lines_for_bar(listed: Sequence[Callback], is_asked: bool) -> list[ProgressLines]:
    """The lines to list among a trainer's callbacks where Lightning's own bar would not be seen; else none.

    Args:
        listed: The callbacks that the config lists; a bar among them is what the user wants.
        is_asked: `trainer.enable_progress_bar`.
    """
    console = rich.get_console()
    is_seen = console.is_interactive or console.is_jupyter
    return [] if is_seen or not is_asked or any(isinstance(one, ProgressBar) for one in listed) else [ProgressLines()]


def lines_of(trainer: Trainer) -> Lines | None:
    """What says how far this trainer's loops have come; None where a bar shows it, or nothing does."""
    bar = trainer.progress_bar_callback
    return bar.lines if isinstance(bar, ProgressLines) and bar.is_enabled else None


def announce(trainer: Trainer, stage: str) -> None:
    """Say that a stage begins that counts nothing, where no bar is seen."""
    if (lines := lines_of(trainer)) is not None:
        lines.write(stage)


def inform(trainer: Trainer, line: str) -> None:
    """Say on rank 0 what is to come, beside a bar too; nothing where progress is switched off."""
    if trainer.progress_bar_callback is not None and trainer.is_global_zero:
        lines = lines_of(trainer)
        (to_standard_error if lines is None else lines.write)(line)


def trainer_progress(trainer: Trainer, items: Iterable[Any], total: int, description: str) -> Iterator[Any]:
    """Yield the items under a bar of the trainer's own kind, or with lines; silently where it shows none."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.progress is None:
        bar._init_progress(trainer)  # data is read before Lightning does; it does so once
    if isinstance(bar, RichProgressBar) and bar.progress is not None and not bar.is_disabled:
        keep_lines_whole(trainer)
        task = bar.progress.add_task(escape(description), total=total)
        for item in items:
            yield item
            bar.progress.advance(task)
            bar.refresh()  # Lightning's bar is drawn when it is told to, a few times a second at most
        # What is done makes room: a run has dozens of such loops. At once, or a line that Lightning logs past the bar
        # would leave it standing.
        bar.progress.update(task, visible=False)
        bar.progress.refresh()
    elif isinstance(bar, TQDMProgressBar) and not bar.is_disabled:
        yield from Tqdm(
            items, total=total, desc=description, file=sys.stdout, smoothing=0, dynamic_ncols=True,
            bar_format=bar.BAR_FORMAT, position=2 * bar.process_position, leave=True,
        )  # fmt: skip
    elif (lines := lines_of(trainer)) is not None:
        yield from lines.watch(items, total, description)
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
