"""Who turns the loop: the thread that waits for its own requests, or one in the background.

A call that decodes in its own thread needs no other one, sees its own errors where they happen, and
can be interrupted. What was submitted while nobody decodes is decoded by a background thread, which
ends with the last request. Only one thread turns the loop at a time; it takes along the requests
of all others.
"""

from __future__ import annotations

import atexit
import contextvars
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial

import torch

from skipstone.engine.loop import Loop
from skipstone.engine.request import Handle, Request
from skipstone.errors import ConfigError
from skipstone.quoting import shown

# How long a waiting thread sleeps at most before it looks whether it can be interrupted.
_NAP_SECONDS = 0.2
# How long a fork waits for the end of a step; two threads that fork wait for each other so long.
_FORK_SECONDS = 5.0


# A thread that is killed in the middle of a step may take the process down with it.
_background = weakref.WeakSet[threading.Thread]()
_ending = threading.Event()
_drivers: weakref.WeakSet[Driver] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    """Let background threads end their step, before the interpreter goes."""
    _ending.set()
    for thread in tuple(_background):
        thread.join()


# Threads that fork this process; no turn begins meanwhile. A list: a lock would be forked as it is.
_forking = list[int]()


def _stand() -> None:
    """Before a fork: a lock that a step holds, whosever it is, would be held in the child."""
    _forking.append(threading.get_ident())
    end = time.monotonic() + _FORK_SECONDS
    while any(driver.turns_elsewhere() for driver in tuple(_drivers)) and time.monotonic() < end:
        time.sleep(0.001)


def _go_on() -> None:
    _forking.clear()


def _forked() -> None:
    _forking.clear()
    for driver in tuple(_drivers):
        driver.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_stand, after_in_parent=_go_on, after_in_child=_forked)


class Driver:
    """Requests of all threads, and the loop that decodes them."""

    def __init__(self, begin: Callable[[Sequence[Handle], deque[Handle]], Loop]) -> None:
        """``begin`` lays out a batch for those that wait, given them and the queue."""
        self._begin = begin
        self._queue = deque[Handle]()
        self._loop: Loop | None = None
        self._lock = threading.Lock()
        self._owner: threading.Thread | None = None
        """The thread that turns the loop."""
        self._turning: int | None = None
        """Which thread is in the middle of a turn."""
        _drivers.add(self)

    def submit(self, handle: Handle) -> None:
        """Decode it in the background, beside whatever is being decoded.

        In the middle of a step, an observer or a policy may submit: the request waits for its turn,
        as all do. What it may not is wait for it there.

        Raises:
            ConfigError: its observer watches another request.
        """
        handle.may_wait = self._may_wait
        try:
            with self._lock:
                self._check_observer(handle)
                self._queue.append(handle)
                if self._owner is None:
                    self._drive_in_background()
        except BaseException:
            handle.cancel()
            raise

    def _check_observer(self, handle: Handle) -> None:
        """Refuse an observer that would be told of two requests as if they were one."""
        # Meanwhile whoever turns the loop takes requests from the queue into slots.
        waiting, loop = tuple(self._queue), self._loop
        running = loop.handles if loop is not None else ()
        coming = [h.watch.observer for h in waiting if h.watch is not None and not h.done()]
        coming += [h.watch.observer for h in running if h.watch is not None and h.watch.watches]
        mine = None if handle.watch is None else handle.watch.observer
        if mine is not None and any(other is mine for other in coming):
            raise ConfigError(
                f"the observer {shown(mine)} watches another request; give each request its own, "
                f"or submit when the other one is done"
            )

    def run(self, handles: Sequence[Handle]) -> None:
        """Decode these, in this thread if no other one decodes; return when all are done.

        However it ends, none of them is left in the engine.
        """
        if not self._may_wait():
            # An observer or a policy asks, in the middle of a step, and waits for the answer.
            Driver(self._begin).run(handles)
            return
        try:
            if self._claim(handles):
                self._drive_until(handles)
            else:
                for handle in handles:
                    while not handle.wait(_NAP_SECONDS):
                        pass
            self._hand_over()
        finally:
            # There is something left to do only if it was interrupted, at whatever line.
            for handle in handles:
                handle.cancel()
            self._hand_over()

    def requests(self) -> tuple[list[Request], list[Request]]:
        """Those that wait, and those that are being decoded."""
        loop = self._loop
        running = [handle.request for handle in (loop.handles if loop is not None else ())]
        waiting = [handle.request for handle in tuple(self._queue) if not handle.done()]
        # Whoever is on the way from the queue into a slot is in both for a moment.
        admitted = set(running)
        return [request for request in waiting if request not in admitted], running

    @property
    def alive(self) -> bool:
        """Whether requests are decoded; no, if a thread has died that turned the loop."""
        # A thread that is about to start or to end changes the owner under the lock.
        with self._lock:
            return self._owner is None or self._owner.is_alive()

    def forked(self) -> None:
        """In the child of a fork nobody decodes any more: that thread is the parent's."""
        lost = [*self._queue, *(self._loop.handles if self._loop is not None else ())]
        self._queue.clear()
        self._loop, self._lock, self._owner = None, threading.Lock(), None
        for handle in lost:
            handle.lose(CancelledError("submitted before the fork: the parent process decodes it"))

    def turns_elsewhere(self) -> bool:
        """Whether another thread is in the middle of a turn."""
        return self._turning not in (None, threading.get_ident()) and self._owner is not None

    def _may_wait(self) -> bool:
        """Whether this thread may wait for others: not while it is in the middle of their step."""
        # Interrupted at whatever line, it may still be noted as turning; it owns nothing then.
        return self._turning != threading.get_ident() or not self._owns()

    def _claim(self, handles: Sequence[Handle]) -> bool:
        """Put these into the queue; whether this thread turns the loop from now on."""
        with self._lock:
            self._queue.extend(handles)
            if self._owner is None:
                self._owner, self._turning = threading.current_thread(), None
                return True
        return False

    def _owns(self) -> bool:
        with self._lock:
            return self._owner is threading.current_thread()

    def _drive(self) -> None:
        """Turn the loop until nothing is left to decode."""
        while self._owns():
            try:
                worked = self._turn()
            except BaseException as error:  # raised where its requests are waited for
                self._abandon(error)
                worked = True
            with self._lock:
                if _ending.is_set():
                    self._abandon(CancelledError("the process ends"), everyone=True)
                if _ending.is_set() or not (worked or self._queue):
                    self._owner = None

    def _drive_until(self, handles: Sequence[Handle]) -> None:
        """Turn the loop until these are done."""
        try:
            for handle in handles:
                while not handle.done():
                    self._turn()
        except BaseException as error:
            # Interrupted in the middle of a step: nothing of this batch can be trusted any more.
            if self._loop is not None:
                self._abandon(error)
            raise

    def _hand_over(self) -> None:
        """Leave the loop to another thread, if there is anything left to decode."""
        with self._lock:
            if self._owner is not threading.current_thread():
                return
            if self._queue or not (self._loop is None or self._loop.idle):
                self._drive_in_background()
            else:
                self._loop = self._owner = None

    def _drive_in_background(self) -> None:
        # Whatever holds where the request was submitted holds where it is decoded.
        drive = partial(contextvars.copy_context().run, self._drive)
        thread = threading.Thread(target=drive, name="skipstone", daemon=True)
        _background.add(thread)
        before = self._owner
        try:
            self._owner = thread
            thread.start()
        except BaseException:
            # If it runs all the same, it sees that it does not own the loop.
            self._owner = before
            raise

    @torch.inference_mode()
    def _turn(self) -> bool:
        """One turn of the loop, laid out anew where those that wait need it; False: no work."""
        self._turning = threading.get_ident()
        while _forking:
            self._turning = None
            time.sleep(0.001)
            self._turning = threading.get_ident()
        try:
            if self._loop is None:
                return self._begin_next()
            if self._loop.turn():
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
            waiting[0].fail(error)
        return True

    def _abandon(self, error: BaseException, *, everyone: bool = False) -> None:
        """End all that is being decoded, and those that wait for the same observer.

        Where nothing was being decoded, it was the first of the queue that could not begin.

        Args:
            error: why.
            everyone: end all that wait as well.
        """
        loop, self._loop = self._loop, None
        waiting = tuple(self._queue)
        if loop is not None:
            observer = loop.takes.observer
            loop.fail(error)
            ended = [h for h in waiting if observer is not None and h.observer is observer]
        else:
            ended = [h for h in waiting if not h.done()][:1]
        for handle in waiting if everyone else ended:
            handle.fail(error)
