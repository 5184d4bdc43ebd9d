"""What the steps of a request did, for whoever reads along.

The thread that decodes adds each step and goes on; it waits for no reader. Steps are kept as long
as the request's handle is, so a reader takes them at its own pace, each once, from the first on.
What is kept is bounded by the request: a few numbers for each token that a step changed.

Shape letters: C tokens changed, F tokens final.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from skipstone.engine.result import StepStats


@dataclass(frozen=True, eq=False)
class DecodedStep:
    """What one forward did to a request."""

    number: int
    """Which of its forwards, from 0."""
    stats: StepStats
    """Its block and step, and the work."""
    offsets_C: np.ndarray
    """int64: offsets among the new tokens that it decided, or whose tokens it replaced."""
    tokens_C: np.ndarray
    """int64: the ids there."""
    revoked: tuple[int, ...]
    """Offsets that became masks again."""
    final_F: np.ndarray
    """int64: offsets that no later step changes. Where a policy replaces tokens or takes them back,
    they may have been decided before; else they are ``offsets_C``."""
    final_tokens_F: np.ndarray
    """int64: the ids there."""


class Told:
    """The steps of a request so far, and who waits for the next one."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.steps = list[DecodedStep]()
        self._changed = threading.Condition()
        self._listeners = list[Callable[[], None]]()

    def add(self, step: DecodedStep) -> None:
        """A step was taken."""
        self.steps.append(step)
        self.tell()

    def tell(self) -> None:
        """Wake whoever waits: something has happened."""
        with self._changed:
            self._changed.notify_all()
        for listener in tuple(self._listeners):
            listener()

    def wait_for(self, holds: Callable[[], bool], timeout: float | None = None) -> bool:
        """Sleep until something holds; whether it does."""
        with self._changed:
            return self._changed.wait_for(holds, timeout)

    def forked(self) -> None:
        """In the child of a fork: whoever held the lock is not here."""
        self._changed = threading.Condition()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call it whenever something happens, on the thread where it does."""
        self._listeners.append(listener)

    def leave(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        self._listeners.remove(listener)


@dataclass(frozen=True, eq=False)
class ToldSteps:
    """Each step of a request as it happens, by ``for`` or ``async for``: none is lost or doubled.

    Whoever comes late gets those before, too, and whoever reads slowly delays nobody. The end of
    the request ends it, or its error is raised.
    """

    told: Told
    ended: Callable[[], bool]
    """Whether the request is done in whatever way."""
    check_may_wait: Callable[[], object]
    """Raises where a thread would wait for itself."""
    close: Callable[[], object]
    """Raises the request's error, if it has ended with one."""

    def __iter__(self) -> Iterator[DecodedStep]:
        """Wait for each in this thread.

        Raises:
            DeadlockError: an observer or a policy reads on, in the middle of a step.
            SkipstoneError: that with which the request ended.
        """
        steps, read = self.told.steps, 0
        while True:
            if read == len(steps):
                self.check_may_wait()
            self.told.wait_for(partial(self._has_news, read))
            while read < len(steps):
                read += 1
                yield steps[read - 1]
            if self.ended() and read == len(steps):
                break
        self.close()

    async def __aiter__(self) -> AsyncIterator[DecodedStep]:
        """Wait for each in an event loop, which is woken when there is one."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            # A loop may have been closed while somebody was reading.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(news.set)

        steps, read = self.told.steps, 0
        self.told.listen(wake)
        try:
            while True:
                news.clear()
                ended = self.ended()
                while read < len(steps):
                    read += 1
                    yield steps[read - 1]
                if ended and read == len(steps):
                    break
                if not self._has_news(read):
                    await news.wait()
        finally:
            self.told.leave(wake)
        self.close()

    def _has_news(self, read: int) -> bool:
        """Whether whoever has read so many need not wait."""
        return read < len(self.told.steps) or self.ended()
