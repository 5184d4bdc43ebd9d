"""Requests: what is decoded, how far it has come, and the handle that waits for it.

Shape letters: G generation length.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skipstone.canvas import MOST_STOP_IDS, Block, HostCanvas, Place, blocks
from skipstone.engine.result import Result, StepStats
from skipstone.engine.settings import Settings
from skipstone.errors import ConfigError
from skipstone.text import Text

if TYPE_CHECKING:
    from skipstone.engine.observe import Observer

# Steps of a request that are remembered to judge how much its next one commits.
_REMEMBERED = 8


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

    @property
    def length(self) -> int:
        """All of its positions."""
        return len(self.prompt) + len(self.region)

    @cached_property
    def blocks(self) -> list[Block]:
        """From left to right."""
        return blocks(len(self.region), self.settings.block_length)

    def budget(self, block: Block) -> int:
        """The block's part of the steps; together the blocks have them all."""
        steps, length = self.settings.steps, len(self.region)
        if steps is None:
            return block.length
        return max(1, steps * block.stop // length - steps * block.start // length)


def with_stops(own: Sequence[int], more: Sequence[int]) -> tuple[int, ...]:
    """Ids that end a request: its own, and more.

    Raises:
        ConfigError: they are too many.
    """
    every = tuple(dict.fromkeys([*own, *more]))
    if len(every) > MOST_STOP_IDS:
        raise ConfigError(
            f"stop_ids are {len(every)} with EOS, must be at most {MOST_STOP_IDS}; give fewer"
        )
    return every


@dataclass(eq=False)
class RequestState:
    """A request in its slot, and how far it has come."""

    request: Request
    slot: int
    handle: Handle | None = None
    """Who waits for it."""
    block: int = 0
    step: int = 0
    """The step that it takes next within its block."""
    forward: int = 0
    """Forwards that it has taken part in."""
    stats: list[StepStats] = field(default_factory=list)
    _paces: deque[int] = field(default_factory=lambda: deque[int](maxlen=_REMEMBERED))

    def next_place(self, host: HostCanvas) -> Place | None:
        """Where it goes next; None if it is done. Moves it on to its next block.

        Args:
            host: the canvas as the host knows it.
        """
        request = self.request
        while self.block < len(request.blocks):
            block = request.blocks[self.block]
            within = request.settings.budget == "finish" or self.step < request.budget(block)
            if within and host.masks(self.slot, block):
                return self.place(block, self.step)
            self.block, self.step = self.block + 1, 0
        return None

    def place(self, block: Block, step: int) -> Place:
        """Where it is, in policies' words."""
        request = self.request
        return Place(
            request=self.slot,
            sample=request.sample,
            prompt_length=len(request.prompt),
            block=block,
            step=step,
            step_budget=request.budget(block),
            forward=self.forward,
            seed=request.settings.seed or 0,
        )

    def last_place(self) -> Place:
        """Where its last step was, for one more at the same place."""
        return self.place(self.request.blocks[self.block], self.step - 1)

    def has_masks(self, host: HostCanvas) -> bool:
        """Whether anything of it is not decoded yet."""
        blocks = self.request.blocks
        return host.masks(self.slot, Block(0, 0, blocks[-1].stop)) > 0

    def launched(self, place: Place) -> None:
        """A step of it is on its way."""
        self.block, self.step, self.forward = place.block.index, place.step + 1, place.forward + 1

    def dropped(self, place: Place) -> None:
        """A step of it found its block decoded already, and changed nothing."""
        self.forward = place.forward

    def completed(self, stats: StepStats) -> None:
        """A step of it is done."""
        self.stats.append(stats)
        self._paces.append(stats.committed)

    def surely_has_masks(self, host: HostCanvas, in_flight: int) -> bool:
        """Whether its block will very likely have masks left after the steps in flight.

        A step commits about as many as those before it: at most the most that one of them did, and
        as many again as they differ by.

        Args:
            host: the canvas before these steps.
            in_flight: how many they are.
        """
        if not self._paces or self.block >= len(self.request.blocks):
            return False
        most = 2 * max(self._paces) - min(self._paces)
        return host.masks(self.slot, self.request.blocks[self.block]) > in_flight * most


@dataclass(frozen=True, eq=False)
class Done:
    """A request that has left its slot, and what was decoded."""

    request: Request
    stats: list[StepStats]
    ids_G: np.ndarray
    status_G: np.ndarray

    @property
    def sample(self) -> int:
        """Which of the prompts of its call it is."""
        return self.request.sample

    @property
    def prompt_length(self) -> int:
        """Ids left of all that was decoded."""
        return len(self.request.prompt)


class Commit(NamedTuple):
    """One token that was decided."""

    position: int
    """Its offset among the new tokens."""
    token: int
    text: str
    """Final text so far: of all tokens before the first mask, or before EOS."""


class _Told(NamedTuple):
    """What a step decided of a request."""

    offsets: np.ndarray
    tokens: np.ndarray


class Handle:
    """A request that was submitted: wait for it, watch it, or cancel it.

    ``result()`` waits; iterating gives each ``Commit`` as it happens; ``await handle`` and
    ``async for commit in handle`` do the same in an event loop.
    """

    def __init__(
        self,
        request: Request,
        text: Text,
        finish: Callable[[Done, float], Result],
        *,
        observer: Observer | None = None,
        batch_size: int | None = None,
        joined: bool = False,
    ) -> None:
        """Nothing of it is decoded yet; the engine makes handles."""
        self.request = request
        self.joined = joined
        """Whether others may come while it is decoded."""
        self.observer = observer
        self.batch_size = batch_size
        """Of the batch in which it may be decoded; None: any."""
        self.seconds = 0.0
        """From when it was submitted until it was done."""
        self._submitted = time.perf_counter()
        self._text, self._finish = text, finish
        self._future = Future[Done]()
        self._told = list[_Told]()
        self._changed = threading.Condition()
        self._listeners = list[Callable[[], None]]()

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
            StalledError: the unmask policy never commits anything.
            NotFiniteError: a number is not finite; the message names the layer.
        """
        return self._finish(self._future.result(timeout), self.seconds)

    def cancel(self) -> bool:
        """End it as soon as may be; its slot goes to the next one. False if it is done already."""
        cancelled = self._future.cancel()
        if cancelled:
            self._tell()
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

        A skip policy decides in the middle of a forward, and an observer sees whole steps.
        """
        mine, theirs = self.request.settings.skip, other.request.settings.skip
        together = self.observer is other.observer and self.batch_size == other.batch_size
        return together and mine == theirs

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is done in whatever way; whether it is."""
        with self._changed:
            return self._changed.wait_for(self.done, timeout)

    def __iter__(self) -> Iterator[Commit]:
        """Each commit as it happens; the end of the request ends it, or its error is raised."""
        reader = _Reader(self.request, self._text)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: reader.read < len(self._told) or self.done())
            yield from reader.news(self._told)
            if self.done() and reader.read == len(self._told):
                break
        if not self.cancelled():
            self._future.result()

    async def __aiter__(self) -> AsyncIterator[Commit]:
        """The same in an event loop."""
        reader, loop, news = _Reader(self.request, self._text), asyncio.get_running_loop(), None
        news = asyncio.Event()

        def told() -> None:
            loop.call_soon_threadsafe(news.set)

        self._listeners.append(told)
        try:
            while True:
                news.clear()
                ended = self.done()
                for commit in reader.news(self._told):
                    yield commit
                if ended and reader.read == len(self._told):
                    break
                if not self.done():
                    await news.wait()
        finally:
            self._listeners.remove(told)
        if not self.cancelled():
            self._future.result()

    def __await__(self) -> Generator[object, None, Result]:
        """The result, in an event loop."""
        done = yield from asyncio.wrap_future(self._future).__await__()
        return self._finish(done, self.seconds)

    # --- for the loop that decodes it ------------------------------------------------------------

    def committed(self, offsets: np.ndarray, tokens: np.ndarray) -> None:
        """A step decided these offsets."""
        self._told.append(_Told(offsets, tokens))
        self._tell()

    def finish(self, done: Done) -> None:
        """It is decoded."""
        self.seconds = time.perf_counter() - self._submitted
        if self._future.set_running_or_notify_cancel():
            self._future.set_result(done)
        self._tell()

    def fail(self, error: BaseException) -> None:
        """It ends with an error."""
        if not self.done() and self._future.set_running_or_notify_cancel():
            self._future.set_exception(error)
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
        for listener in tuple(self._listeners):
            listener()


class _Reader:
    """Makes commits of what steps decided."""

    def __init__(self, request: Request, text: Text) -> None:
        self.read = 0
        self._text, self._stops = text, frozenset(request.stop_ids)
        self._ids = np.array(request.region)
        self._decided = np.array([token != request.mask_id for token in request.region])
        self._settled, self._shown = 0, ""

    def news(self, told: Sequence[_Told]) -> Iterator[Commit]:
        """The commits that were not read yet."""
        while self.read < len(told):
            offsets, tokens = told[self.read]
            self.read += 1
            self._ids[offsets], self._decided[offsets] = tokens, True
            self._advance()
            for offset, token in zip(offsets.tolist(), tokens.tolist(), strict=True):
                yield Commit(offset, token, self._shown)

    def _advance(self) -> None:
        """Read on what has become final."""
        left = np.flatnonzero(~self._decided)
        settled = int(left[0]) if left.size else self._ids.size
        if settled == self._settled:
            return
        self._settled = settled
        ids = self._ids[:settled].tolist()
        end = next((i for i, token in enumerate(ids) if token in self._stops), settled)
        # Half of a character may be still to come.
        self._shown = self._text.decode(ids[:end]).rstrip("\ufffd")
