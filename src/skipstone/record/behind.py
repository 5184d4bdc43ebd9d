"""A thread that works one piece behind whoever hands it work."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

Work = Callable[[], None]


class Behind:
    """Does pieces of work in order on a thread of its own; at most one piece is not done yet.

    The executor of the standard library does this too, but takes three times as long to hand over
    a piece, which is what the one who hands it over waits for.
    """

    def __init__(self) -> None:
        """Start nothing yet; the first piece does."""
        self._todo = SimpleQueue[Work | None]()
        self._done = SimpleQueue[BaseException | None]()
        self._busy = False
        self._thread: Thread | None = None

    def add(self, work: Work) -> None:
        """Hand over a piece, after waiting for the one before and raising what that one raised."""
        self.wait()
        if self._thread is None:
            # A daemon: a process that ends without stop() must not wait for pieces to come.
            self._thread = Thread(target=_serve, args=(self._todo, self._done), daemon=True)
            self._thread.start()
            weakref.finalize(self, self._todo.put, None)
        self._todo.put(work)
        self._busy = True

    def wait(self) -> None:
        """Wait until nothing is left to do; raises what the last piece raised, once."""
        if self._busy:
            failure = self._done.get()
            self._busy = False
            if failure is not None:
                raise failure

    def stop(self) -> None:
        """Wait and end the thread; raises what the last piece raised, if nothing has yet."""
        if self._thread is not None:
            self._todo.put(None)
            self._thread.join()
            self._thread = None
        # An interrupt may have torn wait() apart: now that nobody is at work, the queue knows best.
        self._busy = not self._done.empty()
        self.wait()


def _serve(todo: SimpleQueue[Work | None], done: SimpleQueue[BaseException | None]) -> None:
    while (work := todo.get()) is not None:
        try:
            work()
        except BaseException as error:  # whatever it is: somebody waits for an answer
            done.put(error)
        else:
            done.put(None)
        # Not kept while waiting for the next piece: it may hold the tensors of a whole step.
        del work
