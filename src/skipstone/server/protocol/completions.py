"""``/v1/completions``: text or ids in, as they stand, and what follows them out."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from skipstone.server.protocol.common import (
    NOT_SUPPORTED,
    DecodingRequest,
    FinishReason,
    Said,
    Usage,
)
from skipstone.server.protocol.logprobs import CompletionLogprobs
from skipstone.server.protocol.said import SaidOfAnswer
from skipstone.server.protocol.strict import Refused

Ids = Annotated[list[int], Field(min_length=1, fail_fast=True)]
_MANY = Field(min_length=1, max_length=1024, fail_fast=True)


class CompletionRequest(DecodingRequest):
    """What a client asks."""

    prompt_field: ClassVar[str] = "prompt"
    refused: ClassVar[Refused] = {
        **NOT_SUPPORTED,
        "best_of": (None, 1),
        "echo": (None, False),
        "suffix": (None, ""),
    }

    prompt: str | Ids | Annotated[list[str], _MANY] | Annotated[list[Ids], _MANY]
    """One prompt or several, as text or ids. No chat template is applied, and special text is the
    token that it names."""

    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    """Each token of an answer comes with its log-probability, and so many most probable ones."""

    @property
    def told_beside(self) -> int | None:
        """How many most probable tokens are told beside each; None: no log-probabilities are."""
        return self.logprobs

    def prompts(self) -> list[str] | list[list[int]]:
        """Each prompt."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [prompt]
        return prompt


class CompletionChoice(BaseModel):
    """One of the answers, or news of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None
    skipstone: SaidOfAnswer | None = None


class Completion(BaseModel):
    """What a client gets, whole or in chunks."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    skipstone: Said | None = None
