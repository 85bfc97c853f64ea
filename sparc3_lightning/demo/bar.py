"""The progress bar of the demo's own loops; `sparc3` shows Lightning's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Units a second."""
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} {task.fields['unit']}/s")


@contextmanager
def bar(description: str, unit: str, total: int, console: Console) -> Iterator[Callable[[], None]]:
    """Show a bar with a rate; where no terminal is, one line at the end.

    Args:
        description: What is done.
        unit: What is counted, in the plural.
        total: How many of it.
        console: Where to show it.

    Returns:
        What to call after each.
    """
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), _Rate())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total, unit=unit)
        yield lambda: progress.advance(task)
