"""What the endpoints that decode have in common: how to decode, and what was used."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from skipstone.server.protocol.strict import CONFLICT, Refused, Strict, refusal

FinishReason = Literal["stop", "length"]
"""EOS, a stop id or a stop string; or as many tokens as were asked for."""

StopString = Annotated[str, Field(min_length=1, max_length=1000)]

SettingValue = str | int | float | bool | Annotated[list[int], Field(fail_fast=True)] | None

# Fields of OpenAI's that no endpoint supports, with the values that ask for nothing.
NOT_SUPPORTED: Refused = {
    "frequency_penalty": (None, 0, 0.0),
    "presence_penalty": (None, 0, 0.0),
    "logit_bias": (None, {}),
}


class StreamOptions(Strict):
    """What is streamed beside the text."""

    refused: ClassVar[Refused] = {"include_obfuscation": (None, False)}

    include_usage: bool | None = None
    """Whether a last chunk says what was used."""
    canvas: bool | None = None
    """Whether chunks say what each step changed; of Skipstone, not of OpenAI."""


class SampledRequest(Strict):
    """With which model and settings; what is left out is as the server was started."""

    prompt_field: ClassVar[str]
    """Which field has what is read; errors name it."""

    model: str
    """The name under which the model is served."""
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    """Answers to each prompt."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """0 takes the most probable token."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Only the most probable tokens are possible, up to the one with which they reach this."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Of what is drawn; the answers to a prompt are drawn with it, one more, two more and so on."""
    skipstone: dict[str, SettingValue] | None = None
    """Settings of the engine for this request alone, by name and as on the command line; and
    ``trace``, the level at which its answers are recorded."""
    user: str | None = None
    """Taken and not used, as are the other labels of a request."""
    metadata: dict[str, str] | None = None

    @property
    def settings(self) -> dict[str, str]:
        """Settings of the engine, as texts by name."""
        given = (self.skipstone or {}).items()
        return {name: _spelled(value) for name, value in given if name != "trace"}

    @property
    def trace(self) -> SettingValue:
        """The level at which each answer is recorded; None: it is not."""
        return (self.skipstone or {}).get("trace")


class DecodingRequest(SampledRequest):
    """What follows a prompt."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Of an answer, at most."""
    stop: StopString | Annotated[list[StopString], Field(max_length=4, fail_fast=True)] | None = (
        None
    )
    """Texts before which an answer ends."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _streams(self) -> Self:
        if self.stream_options is not None and not self.stream:
            said = "stream_options is there, but stream is not true; leave it out, or stream"
            raise refusal(CONFLICT, "stream_options", said)
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def most_tokens(self) -> int | None:
        """Of an answer; None: as the server was started."""
        return self.max_tokens

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with what was used."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def with_canvas(self) -> bool:
        """Whether a stream says what each step changed."""
        return self.stream_options is not None and bool(self.stream_options.canvas)

    @property
    def told_beside(self) -> int | None:
        """How many most probable tokens are told beside each; None: no log-probabilities are."""
        return None


class Usage(BaseModel):
    """Tokens of prompts and answers."""

    prompt_tokens: int
    completion_tokens: int
    """Those of the answers, EOS and what was cut off not counted."""
    total_tokens: int


class Said(BaseModel):
    """What the engine has to say of a request; of Skipstone, not of OpenAI."""

    notes: list[str]
    """Settings that had no effect, and what is missing from the answer."""


def new_id(kind: str) -> str:
    """A name for an answer."""
    return f"{kind}-{uuid.uuid4().hex}"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def _spelled(value: SettingValue) -> str:
    """A plain value as the command line has it."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool | None) else str(value)
