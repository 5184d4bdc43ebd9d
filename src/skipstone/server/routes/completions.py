"""``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from skipstone.server.answer.choices import (
    Choice,
    cancel,
    read_all,
    said_of,
    silent,
    submit,
    usage_of,
)
from skipstone.server.answer.plan import asks, check_model
from skipstone.server.answer.stream import Emit, EventStream, unless_gone
from skipstone.server.protocol.common import new_id, now
from skipstone.server.protocol.completions import Completion, CompletionChoice, CompletionRequest
from skipstone.server.served import ServedModel


def completion_routes(served: ServedModel) -> APIRouter:
    """The endpoint, for what is served."""
    routes = APIRouter()

    @routes.post("/v1/completions", response_model=Completion)
    async def complete(asked: CompletionRequest, request: Request) -> object:
        """Go on with texts or ids as they stand."""
        check_model(served, asked.model)
        prompts = await run_in_threadpool(_encoded, served, asked)
        choices = submit(served, asks(served, asked, prompts))
        if asked.stream:
            return EventStream(
                partial(_stream, asked, choices, len(prompts)), partial(cancel, choices)
            )
        await unless_gone(request.receive, read_all(choices, silent))
        return _whole(asked, choices, len(prompts))

    return routes


def _encoded(served: ServedModel, asked: CompletionRequest) -> list[list[int]]:
    """The prompts as ids."""
    text = served.engine.model.text
    return [
        text.encode_rendered(prompt) if isinstance(prompt, str) else prompt
        for prompt in asked.prompts()
    ]


def _whole(asked: CompletionRequest, choices: Sequence[Choice], prompts: int) -> Completion:
    return Completion(
        id=new_id("cmpl"),
        created=now(),
        model=asked.model,
        choices=[
            CompletionChoice(
                index=choice.index, text=choice.text.shown, finish_reason=choice.finish
            )
            for choice in choices
        ],
        usage=usage_of(choices, prompts),
        skipstone=said_of(choices),
    )


async def _stream(
    asked: CompletionRequest, choices: Sequence[Choice], prompts: int, emit: Emit
) -> None:
    """Each piece as it becomes final, then how each answer ends."""
    chunk = partial(Completion, id=new_id("cmpl"), created=now(), model=asked.model)

    async def tell(choice: Choice, piece: str) -> None:
        news = CompletionChoice(index=choice.index, text=piece, finish_reason=None)
        await emit(chunk(choices=[news]))

    await read_all(choices, tell)
    for choice in choices:
        ended = CompletionChoice(index=choice.index, text="", finish_reason=choice.finish)
        await emit(chunk(choices=[ended]))
    if asked.with_usage:
        await emit(chunk(choices=[], usage=usage_of(choices, prompts), skipstone=said_of(choices)))
