"""``/v1/fill``: a text with gaps in, the text without them out; of Skipstone, not of OpenAI."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from skipstone.quoting import shown
from skipstone.server.protocol.common import NOT_SUPPORTED, Said, SampledRequest, Usage
from skipstone.server.protocol.errors import AnswerError
from skipstone.server.protocol.said import SaidOfAnswer
from skipstone.server.protocol.strict import Refused, Strict

_MARKER = re.compile(r"(\{\{mask[^{}]*\}\})")
_COUNTED = re.compile(r"\{\{mask:([1-9][0-9]{0,6})\}\}", re.ASCII)

Piece = str | int
"""Given text, or how many tokens are missing."""


class MaskPart(Strict):
    """A gap."""

    mask: Annotated[int, Field(ge=1, lt=10**7)]
    """How many tokens are missing."""


class FillRequest(SampledRequest):
    """What a client asks."""

    prompt_field: ClassVar[str] = "text"
    refused: ClassVar[Refused] = {
        **NOT_SUPPORTED,
        "max_tokens": (None,),
        "stop": (None, []),
        "stream": (None, False),
        "stream_options": (None,),
    }

    text: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[str | MaskPart], Field(min_length=1, max_length=4096, fail_fast=True)]
    )
    """Text in which ``{{mask:N}}`` stands for N tokens; or parts, in which text is nothing but
    that. No chat template is applied, and special text is the token that it names."""

    def pieces(self) -> list[Piece]:
        """Text and gaps, in order.

        Raises:
            AnswerError: there is no gap, or something looks like one and is none.
        """
        text = self.text
        if isinstance(text, str):
            found = [_piece(piece) for piece in _MARKER.split(text) if piece]
        else:
            found = [part if isinstance(part, str) else part.mask for part in text]
        if not any(isinstance(piece, int) for piece in found):
            raise _wrong("text has no gap; write {{mask:4}} where 4 tokens are missing")
        return found


class FilledGap(BaseModel):
    """What was put into a gap."""

    start: int
    """Where it begins in the text, in characters."""
    end: int
    """One past its last character."""
    text: str
    """What is there: up to the first EOS, which no text has."""
    tokens: int
    """How many the gap had."""


class FillChoice(BaseModel):
    """One of the answers."""

    index: int
    text: str
    """All of it; what was given is as it was."""
    spans: list[FilledGap]
    """One for each gap, in order."""
    skipstone: SaidOfAnswer | None


class Fill(BaseModel):
    """What a client gets."""

    id: str
    object: Literal["skipstone.fill"] = "skipstone.fill"
    created: int
    model: str
    choices: list[FillChoice]
    usage: Usage
    skipstone: Said


def _piece(text: str) -> Piece:
    """A piece of a text that was cut at what looks like a marker."""
    if not _MARKER.fullmatch(text):
        return text
    if (found := _COUNTED.fullmatch(text)) is None:
        raise _wrong(
            f'{shown(text)} is no marker; write {{{{mask:4}}}}, or give parts: ["text", '
            f'{{"mask": 4}}], in which text is nothing but text'
        )
    return int(found[1])


def _wrong(said: str) -> AnswerError:
    return AnswerError(400, said, param="text", code="invalid_value")
