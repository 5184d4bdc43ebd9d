"""Requests: what is decoded, and the handle that waits for it.

Shape letters: G generation length.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from skipstone.blocks import Block, blocks
from skipstone.engine.commits import Commit, Reader
from skipstone.engine.prefix import reuses
from skipstone.engine.prompts import check_ids, with_stops
from skipstone.engine.result import Result, StepStats
from skipstone.engine.settings import Settings
from skipstone.engine.told import DecodedStep, Told, ToldSteps
from skipstone.errors import DeadlockError
from skipstone.memory.kept import Keeping
from skipstone.memory.prefixes import Prefix
from skipstone.reach import FULL, Reach
from skipstone.text import Text

if TYPE_CHECKING:
    from skipstone.engine.observe import Observer
    from skipstone.engine.watch import RequestWatch
    from skipstone.models.base import ModelConfig


@dataclass(frozen=True, eq=False)
class Request:
    """What is decoded, and how."""

    prompt: tuple[int, ...]
    """Ids left of all that is decoded."""
    region: tuple[int, ...]
    """Ids from there on, G of them: every mask is decoded, what is none stays as it is."""
    mask_id: int
    settings: Settings
    stop_ids: tuple[int, ...] = ()
    """Where one of them is decided and nothing left of it is masked, the request ends."""
    sample: int = 0
    """Which of the prompts of its call it is."""
    reach: Reach = FULL
    """How far its rows see, and which positions they score."""
    keeping: Keeping = frozenset()
    """What is kept of its positions beside keys and values."""

    @cached_property
    def given(self) -> int:
        """How many ids of the region are given."""
        return sum(token != self.mask_id for token in self.region)

    @classmethod
    def of(
        cls,
        prompt: Sequence[int],
        region: Sequence[int],
        settings: Settings,
        config: ModelConfig,
        sample: int = 0,
        keeping: Keeping = frozenset(),
    ) -> Request:
        """What a model decodes of these ids.

        Raises:
            PromptError: ``stop_ids`` are not in its vocabulary.
            ConfigError: they are too many.
        """
        check_ids(settings.stop_ids, "stop_ids", config.vocab_size)
        own = (config.eos_id,) if settings.eos_stop else ()
        return cls(
            prompt=tuple(prompt),
            region=tuple(region),
            mask_id=config.mask_id,
            settings=settings,
            stop_ids=with_stops(own, settings.stop_ids),
            sample=sample,
            reach=config.reach.over(settings.whole_block),
            keeping=keeping,
        )

    @property
    def length(self) -> int:
        """All of its positions."""
        return len(self.prompt) + len(self.region)

    @cached_property
    def blocks(self) -> list[Block]:
        """From left to right; of a block-causal model they are absolute, as its attention is."""
        absolute = self.settings.absolute_blocks or self.reach.block_size is not None
        before = len(self.prompt) if absolute else 0
        return blocks(len(self.region), self.settings.whole_block, before)

    @cached_property
    def prefix(self) -> Prefix | None:
        """What others may take over of its prompt, and it of theirs; None: nothing."""
        if not reuses(self.settings, self.reach):
            return None
        return Prefix.of(self.prompt, self.reach)

    def settled_before(self, block: Block) -> int:
        """Where the block before this one begins: all left of it was computed when it was final."""
        if not 0 < block.index <= len(self.blocks):
            return 0
        return len(self.prompt) + self.blocks[block.index - 1].start

    def budget(self, block: Block) -> int:
        """The block's part of the steps; together the blocks have them all."""
        steps, length = self.settings.steps, len(self.region)
        if steps is None:
            return block.length
        return max(1, steps * block.stop // length - steps * block.start // length)


@dataclass(frozen=True, eq=False)
class Done:
    """A request that has left its slot, and what was decoded."""

    request: Request
    stats: list[StepStats]
    ids_G: np.ndarray
    status_G: np.ndarray
    reused: int = 0
    """Positions of its prompt whose keys and values were taken over."""

    @property
    def sample(self) -> int:
        """Which of the prompts of its call it is."""
        return self.request.sample

    @property
    def prompt_length(self) -> int:
        """Ids left of all that was decoded."""
        return len(self.request.prompt)


class Handle:
    """A request that was submitted: wait for it, watch it, or cancel it.

    ``result()`` waits; iterating gives each ``Commit`` as it happens, ``steps()`` each step;
    ``await handle`` and ``async for commit in handle`` do the same in an event loop.
    """

    def __init__(
        self,
        request: Request,
        text: Text,
        finish: Callable[[Done, float], Result],
        *,
        observer: Observer | None = None,
        watch: RequestWatch | None = None,
        batch_size: int | None = None,
        joined: bool = False,
    ) -> None:
        """Nothing of it is decoded yet; the engine makes handles."""
        self.request = request
        self.joined = joined
        """Whether others may come while it is decoded."""
        self.observer = observer
        """Of all requests of its run."""
        self.watch = watch
        """Its own observer."""
        self.batch_size = batch_size
        """Of the batch in which it may be decoded; None: any."""
        self.may_wait: Callable[[], bool] = lambda: True
        """Whether the thread that asks may wait for it: not the one that is to decode it."""
        self.seconds = 0.0
        """From when it was submitted until it was done."""
        self.seconds_waited: float | None = None
        """From then until it was admitted to a slot; None: it waits."""
        self.seconds_to_first: float | None = None
        """From then until its first tokens were committed; None: none are."""
        self._submitted = time.perf_counter()
        self._text, self._finish = text, finish
        self._future = Future[Done]()
        self._told = Told()

    def __repr__(self) -> str:
        """How far it has come."""
        state = "cancelled" if self.cancelled() else "done" if self.done() else "being decoded"
        return f"<Handle of {len(self.request.prompt)} prompt tokens: {state}>"

    def result(self, timeout: float | None = None) -> Result:
        """The result, once it is there.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.

        Raises:
            TimeoutError: it was not there in time; the request goes on.
            CancelledError: it was cancelled.
            DeadlockError: an observer or a policy asks, in the middle of a step: the request cannot
                go on before it returns.
            StalledError: the unmask policy never commits anything.
            NotFiniteError: a number is not finite; the message names the layer.
        """
        self._check_may_wait()
        return self._finish(self._future.result(timeout), self.seconds)

    def cancel(self) -> bool:
        """End it as soon as may be; its slot goes to the next one. False if it is done already."""
        cancelled = self._future.cancel()
        if cancelled:
            self._told.tell()
        return cancelled

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._future.cancelled()

    def done(self) -> bool:
        """Whether there is a result or an error, or it was cancelled."""
        return self._future.done()

    def exception(self) -> BaseException | None:
        """Its error, if it ended with one; None if it did not, or goes on."""
        if not self.done() or self.cancelled():
            return None
        return self._future.exception()

    def shares_with(self, other: Handle) -> bool:
        """Whether both may be decoded in one batch.

        A skip policy decides in the middle of a forward, and the observer of a run sees whole
        steps; one of a single request sees that alone.
        """
        mine, theirs = self.request.settings.skip, other.request.settings.skip
        together = self.observer is other.observer and self.batch_size == other.batch_size
        return together and mine == theirs

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is done in whatever way; whether it is."""
        self._check_may_wait()
        return self._told.wait_for(self.done, timeout)

    def steps(self) -> ToldSteps:
        """Each step as it happens, by ``for`` or ``async for``; one for each of its forwards."""
        return ToldSteps(self._told, self.done, self._check_may_wait, self._raise_error)

    def __iter__(self) -> Iterator[Commit]:
        """Each commit as it happens; the end of the request ends it, or its error is raised."""
        reader = self._reader()
        for step in self.steps():
            yield from reader.commits(step)

    async def __aiter__(self) -> AsyncIterator[Commit]:
        """The same in an event loop."""
        reader = self._reader()
        async with aclosing(cast("AsyncGenerator[DecodedStep]", aiter(self.steps()))) as steps:
            async for step in steps:
                for commit in reader.commits(step):
                    yield commit

    def __await__(self) -> Generator[object, None, Result]:
        """The result, in an event loop; a task that is cancelled while it waits cancels it."""
        try:
            done = yield from asyncio.wrap_future(self._future).__await__()
        finally:
            # Whoever is cancelled here has cancelled the request.
            self._told.tell()
        return self._finish(done, self.seconds)

    def decoded(self) -> Done:
        """What was decoded of it, as the engine has it; waits, and raises, as ``result`` does."""
        return self._future.result()

    # --- for the loop that decodes it ------------------------------------------------------------

    def admitted(self) -> None:
        """It is in a slot."""
        self.seconds_waited = self.age

    def stepped(self, step: DecodedStep) -> None:
        """A step of it was taken, and its observer was shown it."""
        if self.seconds_to_first is None and step.offsets_C.size:
            self.seconds_to_first = self.age
        self._told.add(step)

    def finish(self, done: Done) -> None:
        """It is decoded; an error of its observer, which is told first, is its own."""
        self.seconds = self.age
        if self.watch is not None:
            try:
                self.watch.end(self._finish(done, self.seconds))
            except Exception as error:  # raised where the request is waited for
                self.fail(error)
                return
        if self._ends():
            self._future.set_result(done)
        self._told.tell()

    def fail(self, error: BaseException) -> None:
        """It ends with an error.

        What tells a thread to stop, as Ctrl-C does, is that thread's alone.
        """
        if not isinstance(error, Exception):
            error = CancelledError(f"the thread that decoded this was ended by {error!r}")
        if self.watch is not None:
            self.watch.stop()
        if self._ends():
            self._future.set_exception(error)
        self._told.tell()

    def lose(self, error: Exception) -> None:
        """It ends here with an error, whoever held its locks when this process was forked.

        Its observer is not told: what it writes down is the parent's, where the request goes on.
        """
        self.watch = None
        self._future = Future[Done]()
        self._told.forked()
        self.fail(error)

    @property
    def age(self) -> float:
        """Seconds since it was submitted."""
        return time.perf_counter() - self._submitted

    def _ends(self) -> bool:
        """Whether it may end now: it has not, and was not cancelled. Nobody can cancel it then."""
        if self.done():
            return False
        # It runs if its end was interrupted.
        return self._future.running() or self._future.set_running_or_notify_cancel()

    def _check_may_wait(self) -> None:
        """Refuse to wait where that would last for ever.

        Raises:
            DeadlockError: the thread that decodes it asks, in the middle of a step.
        """
        if not (self.done() or self.may_wait()):
            raise DeadlockError(
                "an observer or a policy waits for a request that goes on only when it returns: "
                "take the result after the run, or use generate, which decodes on its own"
            )

    def _reader(self) -> Reader:
        request = self.request
        return Reader(request.region, request.mask_id, request.stop_ids, self._text)

    def _raise_error(self) -> None:
        """Raise that with which it ended, if there is one."""
        if not self.cancelled():
            self._future.result()


def read_or_cancel(handle: Handle) -> Iterator[Commit]:
    """Its commits as they happen; whoever stops reading, or never begins, cancels it."""
    commits = _read(handle)
    # What a generator does at its end, one that was never begun does not do.
    weakref.finalize(commits, handle.cancel)
    return commits


def _read(handle: Handle) -> Iterator[Commit]:
    try:
        yield from handle
    finally:
        handle.cancel()
