"""What goes on, drawn on the terminal while it lasts; nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from skipstone.cli.escape import shortened
from skipstone.cli.terminal import drawing_console


@contextmanager
def progress() -> Generator[Callable[[int, int], None], None, None]:
    """A progress bar over prompts; call it with how many are done, and of how many."""
    console = drawing_console()
    if console is None:
        yield lambda done, total: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # Prompts take seconds: the pace is taken over the last ten minutes.
    with Progress(*columns, console=console, transient=True, speed_estimate_period=600) as bar:
        task = bar.add_task("prompts", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def status(first: str) -> Generator[Callable[[str], None] | None, None, None]:
    """A line that says what is being done, changed by calling it; None without a terminal."""
    console = drawing_console()
    if console is None:
        yield None
        return
    from rich.text import Text as Styled

    with console.status(first) as line:
        yield lambda text: line.update(Styled(shortened(text, console.width - 4)))
