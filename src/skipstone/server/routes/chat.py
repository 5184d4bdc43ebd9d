"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from skipstone.server.access.account import account_of
from skipstone.server.answer.choices import Answers, Choice, News, silent, submit
from skipstone.server.answer.logprobs import ToldToken, chat_logprobs
from skipstone.server.answer.plan import asks, check_model
from skipstone.server.answer.stream import Emit, EventStream, unless_gone
from skipstone.server.protocol.body import StrictRoute
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
from skipstone.server.protocol.errors import naming
from skipstone.server.protocol.logprobs import ChatLogprobs
from skipstone.server.served import ServedModel


def chat_routes(served: ServedModel) -> APIRouter:
    """The endpoint, for what is served."""
    routes = APIRouter(route_class=StrictRoute)

    @routes.post("/v1/chat/completions", response_model=ChatCompletion)
    async def chat(asked: ChatRequest, request: Request) -> object:
        """Answer a conversation."""
        check_model(served, asked.model)
        account, encode = account_of(request), served.engine.model.text.encode
        with naming(asked.prompt_field):
            prompt = await run_in_threadpool(encode, asked.conversation())
            answers = submit(served, account, asks(served, asked, [prompt], account.seed), 1)
        if asked.stream:
            return EventStream(partial(_stream, asked, answers), answers.close)
        await unless_gone(request.receive, answers.read(silent))
        return _whole(asked, answers)

    return routes


def _logprobs(
    asked: ChatRequest, answers: Answers, tokens: Sequence[ToldToken]
) -> ChatLogprobs | None:
    """Of some tokens, if they are asked for."""
    if asked.told_beside is None:
        return None
    return chat_logprobs(answers.served.engine.model.text, tokens)


def _whole(asked: ChatRequest, answers: Answers) -> ChatCompletion:
    return ChatCompletion(
        id=new_id("chatcmpl"),
        created=now(),
        model=asked.model,
        choices=[
            ChatChoice(
                index=choice.index,
                message=AnswerMessage(content=choice.text.shown),
                logprobs=_logprobs(asked, answers, choice.watch.told),
                finish_reason=choice.finish,
                skipstone=choice.said(),
            )
            for choice in answers.choices
        ],
        usage=answers.usage(),
        skipstone=answers.said(),
    )


async def _stream(asked: ChatRequest, answers: Answers, emit: Emit) -> None:
    """Whose turn it is, then each piece as it becomes final, and how each answer ends."""
    chunk = partial(ChatChunk, id=new_id("chatcmpl"), created=now(), model=asked.model)
    for choice in answers.choices:
        role = Delta(role="assistant", content="")
        begun = ChunkChoice(index=choice.index, delta=role, skipstone=choice.begun())
        await emit(chunk(choices=[begun]))

    async def tell(choice: Choice, news: News) -> None:
        told = ChunkChoice(
            index=choice.index,
            delta=Delta(content=news.text or None),
            logprobs=_logprobs(asked, answers, news.tokens) if news.tokens else None,
            finish_reason=news.finish,
            skipstone=news.said,
        )
        await emit(chunk(choices=[told]))

    await answers.read(tell)
    if asked.with_usage:
        await emit(chunk(choices=[], usage=answers.usage(), skipstone=answers.said()))
