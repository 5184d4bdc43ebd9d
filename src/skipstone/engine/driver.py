"""Who turns the loop: the thread that waits for its own requests, or one in the background.

A call that decodes in its own thread needs no other one, sees its own errors where they happen, and
can be interrupted. What was submitted while nobody decodes is decoded by a background thread, which
ends with the last request. Only one thread turns the loop at a time; it takes along the requests
of all others.
"""

from __future__ import annotations

import atexit
import contextvars
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial

import torch

from skipstone.engine.loop import Loop
from skipstone.engine.request import Handle

# How long a waiting thread sleeps at most before it looks whether it can be interrupted.
_NAP_SECONDS = 0.2


# A thread that is killed in the middle of a step may take the process down with it.
_background = weakref.WeakSet[threading.Thread]()
_ending = threading.Event()


@atexit.register
def _end() -> None:
    """Let background threads end their step, before the interpreter goes."""
    _ending.set()
    for thread in tuple(_background):
        thread.join()


class Driver:
    """Requests of all threads, and the loop that decodes them."""

    def __init__(self, begin: Callable[[Sequence[Handle], deque[Handle]], Loop]) -> None:
        """``begin`` lays out a batch for those that wait, given them and the queue."""
        self._begin = begin
        self._queue = deque[Handle]()
        self._loop: Loop | None = None
        self._lock = threading.Lock()
        self._driven = False
        """Whether a thread turns the loop."""
        self._turning: int | None = None
        """Which thread it is, while it does."""

    def submit(self, handle: Handle) -> None:
        """Decode it in the background, beside whatever is being decoded."""
        if self._turning == threading.get_ident():
            # An observer or a policy asks, in the middle of a step: it may wait for the answer.
            Driver(self._begin).submit(handle)
            return
        with self._lock:
            self._queue.append(handle)
            if not self._driven:
                self._drive_in_background()

    def run(self, handles: Sequence[Handle]) -> None:
        """Decode these, in this thread if no other one decodes; return when all are done.

        However it ends, none of them is left in the engine.
        """
        if self._turning == threading.get_ident():
            Driver(self._begin).run(handles)
            return
        with self._lock:
            self._queue.extend(handles)
            mine, self._driven = not self._driven, True
        try:
            if mine:
                self._drive_until(handles)
            else:
                for handle in handles:
                    while not handle.wait(_NAP_SECONDS):
                        pass
        finally:
            # Nothing to cancel unless the wait was interrupted.
            for handle in handles:
                handle.cancel()

    def _drive(self) -> None:
        """Turn the loop until nothing is left to decode."""
        while not _ending.is_set():
            if self._turn():
                continue
            with self._lock:
                if not self._queue:
                    self._driven = False
                    return

    def _drive_until(self, handles: Sequence[Handle]) -> None:
        """Turn the loop until these are done, then leave it to another thread if others are not."""
        try:
            for handle in handles:
                while not handle.done():
                    self._turn()
        except BaseException:
            # Interrupted in the middle of a step: nothing of this batch can be trusted any more.
            self._abandon(CancelledError("another thread was interrupted while it decoded this"))
            raise
        finally:
            self._hand_over()

    def _hand_over(self) -> None:
        with self._lock:
            waits = bool(self._queue) or not (self._loop is None or self._loop.idle)
            self._driven = False
            if waits:
                self._drive_in_background()
            else:
                self._loop = None

    def _drive_in_background(self) -> None:
        self._driven = True
        # Whatever holds where the request was submitted holds where it is decoded.
        drive = partial(contextvars.copy_context().run, self._drive)
        thread = threading.Thread(target=drive, name="skipstone", daemon=True)
        _background.add(thread)
        thread.start()

    @torch.inference_mode()
    def _turn(self) -> bool:
        """One turn of the loop, laid out anew where those that wait need it; False: no work."""
        loop = self._loop
        if loop is None:
            return self._begin_next()
        self._turning = threading.get_ident()
        try:
            if loop.turn():
                return True
        except Exception as error:  # raised where its requests are waited for
            self._abandon(error)
        finally:
            self._turning = None
        self._loop = None
        return True

    def _begin_next(self) -> bool:
        """Lay out a batch for those that wait; False if nobody does."""
        while self._queue and self._queue[0].done():
            self._queue.popleft()
        waiting = [handle for handle in tuple(self._queue) if not handle.done()]
        if not waiting:
            return False
        try:
            self._loop = self._begin(waiting, self._queue)
        except Exception as error:  # raised where the request is waited for
            self._queue.remove(waiting[0])
            waiting[0].fail(error)
        return True

    def _abandon(self, error: BaseException) -> None:
        """End all that is being decoded, and those that wait for the same observer."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        loop.fail(error)
        if loop.takes.observer is not None:
            for handle in tuple(self._queue):
                if handle.observer is loop.takes.observer:
                    handle.fail(error)
