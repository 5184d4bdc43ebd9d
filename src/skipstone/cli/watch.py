"""Observers for a person at a terminal: a progress bar, or the canvas filling live."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text as Styled

from skipstone.canvas import HostCanvas, Status
from skipstone.cli.escape import printable
from skipstone.engine.observe import Observer, StepView, Taps
from skipstone.engine.result import Result
from skipstone.engine.settings import Settings
from skipstone.models.load import Model

_STYLES = {Status.MASK: "dim", Status.COMMITTED: "", Status.FILLED: "dim"}


class ProgressBar:
    """Shows how many new tokens are decoded, over all prompts of the run."""

    def __init__(self, progress: Progress) -> None:
        """Draw on ``progress``, which the caller starts and stops."""
        self.taps = Taps()
        self._progress = progress
        self._task = progress.add_task("decoding", total=None)
        self._decoded = 0

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Set the total."""
        self._decoded = 0
        self._progress.reset(self._task, total=settings.gen_length * len(prompts))

    def on_step(self, view: StepView) -> None:
        """Move the bar."""
        before, after = (c.status_BG == Status.MASK for c in (view.before, view.after))
        self._decoded += int(before.sum() - after.sum())
        self._progress.update(self._task, completed=self._decoded)

    def on_end(self, results: Sequence[Result]) -> None:
        """Nothing to add."""


class CanvasView:
    """Shows the canvas of the first prompt after every step; masks as dots, new tokens bold."""

    def __init__(self, live: Live) -> None:
        """Draw on ``live``, which the caller starts and stops."""
        self.taps = Taps()
        self._live = live
        self._model: Model | None = None

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Remember whose tokens these are."""
        self._model = model

    def on_step(self, view: StepView) -> None:
        """Draw the canvas."""
        assert self._model is not None
        # The first place of the batch is another prompt's once the first is done.
        if all((at.slot, at.sample) != (0, 0) for at in view.context.requests):
            return
        fresh = view.before.status_BG[0] != view.after.status_BG[0]
        fresh |= view.before.ids_BG[0] != view.after.ids_BG[0]
        at = view.context.of(0)
        title = f"block {at.block.index}  step {at.step}\n"
        canvas = _draw(self._model, view.after, fresh.tolist())
        self._live.update(Styled(title, style="dim").append_text(canvas), refresh=True)

    def on_end(self, results: Sequence[Result]) -> None:
        """Nothing to add."""


def _draw(model: Model, host: HostCanvas, fresh: list[bool]) -> Styled:
    drawn = Styled()
    cells = zip(host.ids_BG[0].tolist(), host.status_BG[0].tolist(), fresh, strict=True)
    for token, status, new in cells:
        if status == Status.FILLED or (token == model.config.eos_id and not new):
            continue
        # Control characters of a token must not reach the terminal.
        text = "·" if status == Status.MASK else _shown(model.text.token(token))
        drawn.append(text, style="bold green" if new else _STYLES[Status(status)])
    return drawn


def _shown(token: str) -> str:
    return printable(token.replace("\n", "\N{SYMBOL FOR NEWLINE}"))


@contextmanager
def watching(*, stream: bool, console: Console | None) -> Generator[Observer | None, None, None]:
    """An observer that draws on the terminal and leaves nothing behind; None if there is none."""
    if console is None:
        yield None
    elif stream:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            yield CanvasView(live)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
            yield ProgressBar(progress)
