"""``POST /v1/chat/completions``."""

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
from skipstone.server.protocol.chat import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    ChunkChoice,
    Delta,
)
from skipstone.server.protocol.common import new_id, now
from skipstone.server.served import ServedModel


def chat_routes(served: ServedModel) -> APIRouter:
    """The endpoint, for what is served."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions", response_model=ChatCompletion)
    async def chat(asked: ChatRequest, request: Request) -> object:
        """Answer a conversation."""
        check_model(served, asked.model)
        prompt = await run_in_threadpool(served.engine.model.text.encode, asked.conversation())
        choices = submit(served, asks(served, asked, [prompt]))
        if asked.stream:
            return EventStream(partial(_stream, asked, choices), partial(cancel, choices))
        await unless_gone(request.receive, read_all(choices, silent))
        return _whole(asked, choices)

    return routes


def _whole(asked: ChatRequest, choices: Sequence[Choice]) -> ChatCompletion:
    return ChatCompletion(
        id=new_id("chatcmpl"),
        created=now(),
        model=asked.model,
        choices=[
            ChatChoice(
                index=choice.index,
                message=AnswerMessage(content=choice.text.shown),
                finish_reason=choice.finish,
            )
            for choice in choices
        ],
        usage=usage_of(choices, 1),
        skipstone=said_of(choices),
    )


async def _stream(asked: ChatRequest, choices: Sequence[Choice], emit: Emit) -> None:
    """Whose turn it is, then each piece as it becomes final, then how each answer ends."""
    chunk = partial(ChatChunk, id=new_id("chatcmpl"), created=now(), model=asked.model)
    for choice in choices:
        begun = ChunkChoice(index=choice.index, delta=Delta(role="assistant", content=""))
        await emit(chunk(choices=[begun]))

    async def tell(choice: Choice, piece: str) -> None:
        news = ChunkChoice(index=choice.index, delta=Delta(content=piece))
        await emit(chunk(choices=[news]))

    await read_all(choices, tell)
    for choice in choices:
        ended = ChunkChoice(index=choice.index, delta=Delta(), finish_reason=choice.finish)
        await emit(chunk(choices=[ended]))
    if asked.with_usage:
        await emit(chunk(choices=[], usage=usage_of(choices, 1), skipstone=said_of(choices)))
