"""``/v1/chat/completions``: a conversation in, the next turn out."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_serializer, model_validator

from skipstone.server.protocol.common import (
    NOT_SUPPORTED,
    DecodingRequest,
    FinishReason,
    Said,
    Usage,
)
from skipstone.server.protocol.logprobs import ChatLogprobs
from skipstone.server.protocol.said import SaidOfAnswer
from skipstone.server.protocol.strict import CONFLICT, Refused, Strict, refusal


class TextPart(Strict):
    """A part of a message; there are no others than text."""

    refused: ClassVar[Refused] = {"image_url": (), "input_audio": (), "file": (), "refusal": ()}

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """A turn. Which roles a model knows its chat template says."""

    refused: ClassVar[Refused] = {
        "refusal": (None,),
        "audio": (None,),
        "tool_calls": (None, []),
        "tool_call_id": (None,),
        "function_call": (None,),
        "annotations": (None, []),
    }

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]
    name: str | None = None

    def turn(self) -> dict[str, object]:
        """As a chat template takes it; parts of a text are lines of it."""
        content = self.content
        if not isinstance(content, str):
            content = "\n".join(part.text for part in content)
        named = {} if self.name is None else {"name": self.name}
        return {"role": self.role, "content": content, **named}


class ResponseFormat(Strict):
    """Text is all there is."""

    refused: ClassVar[Refused] = {"json_schema": (), "schema": ()}

    type: Literal["text"]


class ChatRequest(DecodingRequest):
    """What a client asks."""

    prompt_field: ClassVar[str] = "messages"
    refused: ClassVar[Refused] = {
        **NOT_SUPPORTED,
        "tools": (None, []),
        "tool_choice": (None, "none", "auto"),
        "parallel_tool_calls": (None, True, False),
        "functions": (None, []),
        "function_call": (None, "none", "auto"),
        "store": (None, False),
        "service_tier": (None, "auto", "default"),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "prediction": (None,),
        "reasoning_effort": (None, "none"),
        "verbosity": (None, "medium"),
        "web_search_options": (None,),
        "prompt_cache_retention": (None,),
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The same as ``max_tokens``."""
    logprobs: bool | None = None
    """Whether each token of an answer comes with its log-probability."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """How many most probable tokens are told beside each."""
    response_format: ResponseFormat | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if None not in (self.max_tokens, self.max_completion_tokens):
            said = "max_tokens and max_completion_tokens are one setting; give one of them"
            raise refusal(CONFLICT, "max_tokens", said)
        return self

    @model_validator(mode="after")
    def _logprobs_asked(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            said = "top_logprobs is there, but logprobs is not true; leave it out, or ask for both"
            raise refusal(CONFLICT, "top_logprobs", said)
        return self

    @property
    def most_tokens(self) -> int | None:
        """Of an answer; None: as the server was started."""
        return self.max_tokens or self.max_completion_tokens

    @property
    def told_beside(self) -> int | None:
        """How many most probable tokens are told beside each; None: no log-probabilities are."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def conversation(self) -> list[dict[str, object]]:
        """The turns, as a chat template takes them."""
        return [message.turn() for message in self.messages]


class AnswerMessage(BaseModel):
    """The turn that was decoded."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason
    skipstone: SaidOfAnswer | None = None


class ChatCompletion(BaseModel):
    """What a client gets, if it does not stream."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    skipstone: Said


class Delta(BaseModel):
    """What has become final since the chunk before; left out where there is nothing."""

    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer
    def _there(self) -> dict[str, str]:
        return {name: value for name, value in self if value is not None}


class ChunkChoice(BaseModel):
    """News of one of the answers."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    skipstone: SaidOfAnswer | None = None


class ChatChunk(BaseModel):
    """What a client gets while it streams."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    skipstone: Said | None = None
