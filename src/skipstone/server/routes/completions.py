"""``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from skipstone.server.access.account import account_of
from skipstone.server.answer.choices import Answers, Choice, News, silent, submit
from skipstone.server.answer.logprobs import ToldToken, completion_logprobs
from skipstone.server.answer.plan import asks, check_model
from skipstone.server.answer.stream import Emit, EventStream, unless_gone
from skipstone.server.protocol.body import StrictRoute
from skipstone.server.protocol.common import new_id, now
from skipstone.server.protocol.completions import Completion, CompletionChoice, CompletionRequest
from skipstone.server.protocol.errors import naming
from skipstone.server.protocol.logprobs import CompletionLogprobs
from skipstone.server.served import ServedModel


def completion_routes(served: ServedModel) -> APIRouter:
    """The endpoint, for what is served."""
    routes = APIRouter(route_class=StrictRoute)

    @routes.post("/v1/completions", response_model=Completion)
    async def complete(asked: CompletionRequest, request: Request) -> object:
        """Go on with texts or ids as they stand."""
        check_model(served, asked.model)
        account = account_of(request)
        with naming(asked.prompt_field):
            prompts = await run_in_threadpool(_encoded, served, asked)
            every = asks(served, asked, prompts, account.seed)
            answers = submit(served, account, every, len(prompts))
        if asked.stream:
            return EventStream(partial(_stream, asked, answers), answers.close)
        await unless_gone(request.receive, answers.read(silent))
        return _whole(asked, answers)

    return routes


def _encoded(served: ServedModel, asked: CompletionRequest) -> list[list[int]]:
    """The prompts as ids."""
    text = served.engine.model.text
    return [
        text.encode_rendered(prompt) if isinstance(prompt, str) else prompt
        for prompt in asked.prompts()
    ]


def _logprobs(
    asked: CompletionRequest, answers: Answers, tokens: Sequence[ToldToken]
) -> CompletionLogprobs | None:
    """Of some tokens, if they are asked for."""
    if asked.told_beside is None:
        return None
    return completion_logprobs(answers.served.engine.model.text, tokens, asked.told_beside)


def _whole(asked: CompletionRequest, answers: Answers) -> Completion:
    return Completion(
        id=new_id("cmpl"),
        created=now(),
        model=asked.model,
        choices=[
            CompletionChoice(
                index=choice.index,
                text=choice.text.shown,
                logprobs=_logprobs(asked, answers, choice.watch.told),
                finish_reason=choice.finish,
                skipstone=choice.said(),
            )
            for choice in answers.choices
        ],
        usage=answers.usage(),
        skipstone=answers.said(),
    )


async def _stream(asked: CompletionRequest, answers: Answers, emit: Emit) -> None:
    """Each piece as it becomes final, and how each answer ends."""
    chunk = partial(Completion, id=new_id("cmpl"), created=now(), model=asked.model)

    for choice in answers.choices:
        if begun := choice.begun():
            first = CompletionChoice(
                index=choice.index, text="", finish_reason=None, skipstone=begun
            )
            await emit(chunk(choices=[first]))

    async def tell(choice: Choice, news: News) -> None:
        told = CompletionChoice(
            index=choice.index,
            text=news.text,
            logprobs=_logprobs(asked, answers, news.tokens) if news.tokens else None,
            finish_reason=news.finish,
            skipstone=news.said,
        )
        await emit(chunk(choices=[told]))

    await answers.read(tell)
    if asked.with_usage:
        await emit(chunk(choices=[], usage=answers.usage(), skipstone=answers.said()))
