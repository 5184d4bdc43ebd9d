"""A thread that does work behind the back of whoever hands it over."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from threading import Event, Thread, current_thread

Work = Callable[[], None]

MOST = 64
"""Pieces that may be waiting; whoever adds one more waits for all of them."""
_PAUSE = 0.05
"""Seconds from one look at the queue to the next."""


class Behind:
    """Does pieces of work in order on a thread of its own, which looks for them 20 times a second.

    Nobody wakes it, for waking a thread takes 35 us, more than half of all that the recorder takes
    from a run for each step. Once a piece fails, those after it are dropped.
    """

    def __init__(self) -> None:
        """Start nothing yet; the first piece does."""
        self._todo = deque[Work]()
        self._failed = list[BaseException]()
        self._enough = Event()
        self._thread: Thread | None = None

    def add(self, work: Work) -> None:
        """Hand over a piece.

        Raises:
            BaseException: what an earlier piece raised; this one is not taken.
        """
        if self._failed or len(self._todo) >= MOST:
            self.finish()
        if self._thread is None:
            self._start()
        self._todo.append(work)

    def finish(self) -> None:
        """Wait until nothing is left to do.

        Raises:
            BaseException: what a piece raised, if nobody has been told yet.
        """
        if self._thread is not None:
            _end(self._thread, self._enough)
            self._thread = None
        if self._failed:
            self._todo.clear()
            raise self._failed.pop()

    def _start(self) -> None:
        self._enough = Event()
        parts = (self._todo, self._failed, self._enough)
        # A daemon, or a process whose user forgot to finish would wait for it for ever.
        self._thread = Thread(target=_serve, args=parts, daemon=True)
        self._thread.start()
        weakref.finalize(self, _end, self._thread, self._enough)


def _serve(todo: deque[Work], failed: list[BaseException], enough: Event) -> None:
    last = False
    while not (last or failed):
        last = enough.wait(_PAUSE)
        try:
            while todo:
                # Stays in the queue until it is done, so that its length is what may be lost.
                todo[0]()
                todo.popleft()
        except BaseException as error:  # whatever it is: somebody has to be told
            failed.append(error)


def _end(thread: Thread, enough: Event) -> None:
    enough.set()
    # The last piece may hold the last reference to whoever owns the thread.
    if thread is not current_thread():
        thread.join()
