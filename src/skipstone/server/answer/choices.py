"""Answers that are being decoded: each is submitted once, and read to its end or cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from skipstone.engine.commits import Commit
from skipstone.engine.request import Handle
from skipstone.server.answer.plan import Ask
from skipstone.server.answer.text import FinalText
from skipstone.server.protocol.common import FinishReason, Said, Usage
from skipstone.server.served import ServedModel

Tell = Callable[["Choice", str], Awaitable[None]]
"""Is given each piece of text that has become final, of the answer that it belongs to."""


@dataclass(frozen=True)
class Choice:
    """One answer."""

    index: int
    """Which of those of its request."""
    handle: Handle
    text: FinalText

    @property
    def finish(self) -> FinishReason:
        """Why it has ended."""
        assert self.text.finish is not None
        return self.text.finish

    async def read(self, tell: Tell) -> None:
        """Read it to its end; however that comes, its slot is free then.

        Raises:
            SkipstoneError: it cannot be decoded.
        """
        try:
            async with aclosing(_commits(self.handle)) as commits:
                async for commit in commits:
                    if new := self.text.take(commit.position, commit.token):
                        await tell(self, new)
                    if self.text.finish is not None:
                        return
            if rest := self.text.close():
                await tell(self, rest)
        finally:
            self.handle.cancel()

    def notes(self) -> tuple[str, ...]:
        """What the engine has to say of it; of one that was cut off, of its settings."""
        handle = self.handle
        if handle.done() and not handle.cancelled():
            return handle.result().notes
        return handle.request.settings.idle()


def submit(served: ServedModel, asks: Sequence[Ask]) -> list[Choice]:
    """Submit what is asked; nothing of it is left in the engine if one of it is refused.

    Raises:
        SkipstoneError: the engine refuses one.
    """
    model, choices = served.engine.model, list[Choice]()
    try:
        for index, ask in enumerate(asks):
            handle = served.engine.submit(ask.prompt, observer=None, **ask.settings)
            text = FinalText(
                handle.request, model.text, model.config.eos_id, limit=ask.limit, stops=ask.stops
            )
            choices.append(Choice(index, handle, text))
    except BaseException:
        cancel(choices)
        raise
    return choices


def cancel(choices: Sequence[Choice]) -> None:
    """Leave nothing of them in the engine."""
    for choice in choices:
        choice.handle.cancel()


async def read_all(choices: Sequence[Choice], tell: Tell) -> None:
    """Read answers beside each other; an error of one ends all.

    Raises:
        SkipstoneError: one cannot be decoded.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for choice in choices:
                group.create_task(choice.read(tell))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        cancel(choices)


async def silent(choice: Choice, piece: str) -> None:
    """For whoever wants the whole text at the end."""


def usage_of(choices: Sequence[Choice], prompts: int) -> Usage:
    """What was used; a prompt counts once, however many answers it has.

    Args:
        choices: all answers, those to a prompt beside each other.
        prompts: how many prompts there are.
    """
    each = len(choices) // prompts
    read = sum(len(choice.handle.request.prompt) for choice in choices[::each])
    written = sum(choice.text.tokens for choice in choices)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def said_of(choices: Sequence[Choice]) -> Said:
    """Notes of all answers, each once."""
    return Said(notes=list(dict.fromkeys(note for one in choices for note in one.notes())))


def _commits(handle: Handle) -> AsyncGenerator[Commit]:
    return cast("AsyncGenerator[Commit]", aiter(handle))
