"""Answers that are being decoded: each is submitted once, and read to its end or cancelled."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from skipstone.engine.request import Handle
from skipstone.engine.told import DecodedStep
from skipstone.server.access.account import Account
from skipstone.server.access.queue import check_queue
from skipstone.server.answer.logprobs import ToldToken
from skipstone.server.answer.plan import Ask
from skipstone.server.answer.text import FinalText
from skipstone.server.answer.watch import AnswerWatch
from skipstone.server.protocol.canvas import CanvasEnd
from skipstone.server.protocol.common import FinishReason, Said, Usage
from skipstone.server.protocol.errors import OURS, AnswerError
from skipstone.server.protocol.said import SaidOfAnswer
from skipstone.server.served import ServedModel

_STOPPED = "ended before it was whole: the server was stopped"

Tell = Callable[["Choice", "News"], Awaitable[None]]
"""Is given what is new of an answer by a step."""


@dataclass(frozen=True)
class News:
    """What is new of an answer."""

    text: str = ""
    """That has become final."""
    tokens: tuple[ToldToken, ...] = ()
    """Those of it, where log-probabilities are asked for."""
    said: SaidOfAnswer | None = None
    """What is to be said beside that."""
    finish: FinishReason | None = None
    """Why nothing follows; None: more may come."""

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.text or self.tokens or self.said or self.finish)


@dataclass(frozen=True)
class Choice:
    """One answer."""

    index: int
    """Which of those of its request."""
    handle: Handle
    text: FinalText
    watch: AnswerWatch
    to_end: bool
    """Whether its request is decoded to its end, though its text may end before."""

    @property
    def finish(self) -> FinishReason:
        """Why it has ended."""
        assert self.text.finish is not None
        return self.text.finish

    @property
    def written(self) -> int:
        """How many tokens of what is shown were decoded; of a text with gaps, some were given."""
        asked = self.handle.request
        return asked.region[: self.text.tokens].count(asked.mask_id)

    @property
    def cut(self) -> bool:
        """Whether its text has ended where the engine would go on."""
        ended = self.text.finish is not None and self.text.whole
        return ended and not (self.to_end or self.text.ends_request)

    def begun(self) -> SaidOfAnswer | None:
        """What is to be said of it before its first step."""
        canvas = self.watch.canvas
        if canvas is None:
            return None
        return SaidOfAnswer(canvas=canvas.begin(self.handle.request, self.text.limit))

    def news(self, text: str, step: DecodedStep | None = None) -> News:
        """What is new of it.

        Args:
            text: that has become final.
            step: by which; None: there are no more.
        """
        canvas, said = self.watch.canvas, None
        if canvas is not None and step is not None:
            said = SaidOfAnswer(canvas=canvas.take(step.number))
        return News(text=text, tokens=self.watch.take(self.text), said=said)

    def ended(self) -> News:
        """That it has."""
        return News(said=self.said(), finish=self.finish)

    def said(self) -> SaidOfAnswer | None:
        """What is to be said of it when it has ended, if anything was asked for."""
        canvas, trace = self.watch.canvas, self.watch.trace
        if canvas is None and trace is None:
            return None
        return SaidOfAnswer(
            canvas=None
            if canvas is None
            else CanvasEnd(finish_reason=self.finish, tokens=self.text.tokens),
            trace_id=None if trace is None else trace.id,
            trace_error=None if trace is None else trace.failure,
        )

    def notes(self) -> tuple[str, ...]:
        """What the engine has to say of it; of one that was cut off, of its settings."""
        handle = self.handle
        if handle.done() and not handle.cancelled() and not self.cut:
            return handle.result().notes
        notes = handle.request.settings.idle()
        return notes if self.text.whole else (*notes, _STOPPED)


@dataclass(frozen=True)
class Answers:
    """All answers to one request, those to a prompt beside each other."""

    choices: tuple[Choice, ...]
    prompts: int
    """How many there are; each has as many answers."""
    account: Account
    served: ServedModel

    async def read(self, tell: Tell) -> None:
        """Read them beside each other to their end; an error of one ends all.

        Raises:
            SkipstoneError: one cannot be decoded.
        """
        limit = self.served.options.time_limit
        left = None if math.isinf(limit) else max(0.0, limit - self.account.age)
        try:
            async with asyncio.timeout(left), asyncio.TaskGroup() as group:
                for choice in self.choices:
                    group.create_task(self._read(choice, tell))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        except TimeoutError:
            raise _late(limit) from None
        finally:
            self.close()

    def close(self) -> None:
        """Leave nothing of them in the engine, and write down what was used."""
        cancel(self.choices)
        self.served.open.handles.difference_update(one.handle for one in self.choices)
        self.account.completion_tokens = self.usage().completion_tokens
        if self.served.options.log_prompts:
            self.account.answers = [choice.text.shown for choice in self.choices]

    def usage(self) -> Usage:
        """What was used; a prompt counts once, however many answers it has."""
        each = len(self.choices) // self.prompts
        given = [choice.handle.request.given for choice in self.choices]
        read = sum(len(one.handle.request.prompt) for one in self.choices[::each])
        read += sum(given[::each])
        written = sum(choice.written for choice in self.choices)
        return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    def said(self) -> Said:
        """Notes of all answers, each once."""
        return Said(notes=list(dict.fromkeys(note for one in self.choices for note in one.notes())))

    async def _read(self, choice: Choice, tell: Tell) -> None:
        """Read one to its end, and tell that it has ended, whatever others do."""
        await self._read_text(choice, tell)
        if choice.watch.trace is not None:
            await choice.watch.trace.keep(choice.handle, self.served.traces)
        await tell(choice, choice.ended())

    async def _read_text(self, choice: Choice, tell: Tell) -> None:
        """Read the text of one; however its end comes, its slot is free then."""
        text = choice.text
        try:
            async with aclosing(_steps(choice.handle)) as steps:
                async for step in steps:
                    self.account.steps += 1
                    if self.account.first_commit is None and step.offsets_C.size:
                        self.account.first_commit = self.account.age
                    new = text.take(step.final_F, step.final_tokens_F)
                    if news := choice.news(new, step):
                        await tell(choice, news)
                    if choice.cut:
                        return
            if news := choice.news(text.close()):
                await tell(choice, news)
        finally:
            choice.handle.cancel()
            waited = choice.handle.seconds_waited
            if text.finish is not None and waited is not None:
                self.served.recent.seconds.append(choice.handle.age - waited)


def submit(served: ServedModel, account: Account, asks: Sequence[Ask], prompts: int) -> Answers:
    """Submit what is asked; nothing of it is left in the engine if one of it is refused.

    Args:
        served: the engine.
        account: of the request.
        asks: every answer, those to a prompt beside each other.
        prompts: how many there are.

    Raises:
        AnswerError: there is no place for so many, or the server is being stopped.
        SkipstoneError: the engine refuses one.
    """
    if served.open.stopped:
        raise AnswerError(503, "the server is being stopped", kind=OURS, code="stopped")
    check_queue(served.engine.load, len(asks), served.options.max_waiting, served.recent)
    model, choices = served.engine.model, list[Choice]()
    try:
        for index, ask in enumerate(asks):
            watch = AnswerWatch.of(ask, model.text)
            send = served.engine.submit_canvas if ask.fills else served.engine.submit
            handle = send(ask.prompt, observer=watch.observer, **ask.settings)
            # In a canvas, EOS may stand anywhere.
            eos_id = None if ask.fills else model.config.eos_id
            text = FinalText(handle.request, model.text, eos_id, limit=ask.limit, stops=ask.stops)
            # Where EOS stops nothing, as much is decoded as the engine decodes without a server.
            to_end = ask.to_end or not handle.request.settings.eos_stop
            choices.append(Choice(index, handle, text, watch, to_end))
    except BaseException:
        cancel(choices)
        raise
    answers = Answers(tuple(choices), prompts, account, served)
    served.open.handles.update(choice.handle for choice in choices)
    account.prompt_tokens = answers.usage().prompt_tokens
    if served.options.log_prompts:
        asked = [list(ask.prompt) for ask in asks[:: len(asks) // prompts]]
        account.prompts = [model.text.decode(prompt) for prompt in asked]
    return answers


def cancel(choices: Sequence[Choice]) -> None:
    """Leave nothing of them in the engine."""
    for choice in choices:
        choice.handle.cancel()


def _late(limit: float) -> AnswerError:
    return AnswerError(
        504,
        f"the answer was not there after {limit:g} s, the time limit of this server; ask for fewer "
        f"tokens",
        kind=OURS,
        code="time_limit",
        # OpenAI's client would ask again, and wait as long again.
        headers={"x-should-retry": "false"},
    )


async def silent(choice: Choice, news: News) -> None:
    """For whoever wants the whole text at the end."""


def _steps(handle: Handle) -> AsyncGenerator[DecodedStep]:
    return cast("AsyncGenerator[DecodedStep]", aiter(handle.steps()))
