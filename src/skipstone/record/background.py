"""A thread that works in the background, one piece after the other."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread, current_thread

Work = Callable[[], None]
_Todo = SimpleQueue[Work | None]
_Done = SimpleQueue[BaseException | None]


class Background:
    """Does pieces of work in order on a thread of its own; at most one piece is not done yet.

    The executor of the standard library does this too, but takes twice as long to hand over a
    piece, which is what the one who hands it over waits for.
    """

    def __init__(self) -> None:
        """Start nothing yet; the first piece does."""
        self._todo, self._done = _Todo(), _Done()
        self._busy = False
        self._thread: Thread | None = None

    def add(self, work: Work) -> None:
        """Hand over a piece, once the one before is done.

        Raises:
            BaseException: what the piece before raised; this one is not taken.
        """
        self.wait()
        if self._thread is None:
            self._start()
        self._todo.put(work)
        self._busy = True

    def wait(self) -> None:
        """Wait until nothing is left to do.

        Raises:
            BaseException: what the last piece raised, if it was not raised yet.
        """
        if self._busy:
            failure = self._done.get()
            self._busy = False
            if failure is not None:
                raise failure

    def finish(self) -> None:
        """The same, and end the thread."""
        if self._thread is not None:
            _end(self._thread, self._todo)
            self._thread = None
            # An interrupt may have torn wait() apart: now that nobody works, the queue knows best.
            self._busy = not self._done.empty()
        self.wait()

    def _start(self) -> None:
        # A daemon, or a process whose user forgot to finish would wait for it for ever.
        self._thread = Thread(target=_serve, args=(self._todo, self._done), daemon=True)
        self._thread.start()
        weakref.finalize(self, _end, self._thread, self._todo)


def _serve(todo: _Todo, done: _Done) -> None:
    while (work := todo.get()) is not None:
        failure = None
        try:
            work()
        except BaseException as error:  # whatever it is: the next call raises it
            failure = error
        # Not kept while waiting for the next piece: it may hold the tensors of a whole step.
        del work
        done.put(failure)


def _end(thread: Thread, todo: _Todo) -> None:
    todo.put(None)
    # The last piece may hold the last reference to the owner of the thread.
    if thread is not current_thread():
        thread.join()
