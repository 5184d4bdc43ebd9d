"""A progress bar with the time left, where there is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress() -> Generator[Callable[[int, int], None], None, None]:
    """A bar over prompts, told how many are done of how many; nothing if there is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # Prompts take seconds: the pace is taken over the last ten minutes.
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, speed_estimate_period=600
    ) as bar:
        task = bar.add_task("prompts", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
