"""The canvas of one answer while it is decoded (``stream_options.canvas``), an extension.

Positions count from the first new token, 0. All that is not told otherwise is masked.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from skipstone.server.protocol.common import FinishReason


class CanvasBegin(BaseModel):
    """How the canvas is laid out; before the first step."""

    type: Literal["begin"] = "begin"
    prompt_length: int
    """Tokens left of position 0."""
    length: int
    """New positions, all masked."""
    limit: int
    """How many of them are the answer, at most; more are decoded to fill a block."""
    block_length: int
    blocks: list[tuple[int, int]]
    """Each block's first position and the one after its last."""


class CanvasToken(BaseModel):
    """What stands at a position, or would stand there now."""

    position: int
    id: int
    token: str
    """Its text; of half a character its bytes, as ``\\\\xe2``."""
    confidence: float
    """Its probability, as the unmask policy saw it; four digits."""


class CanvasStep(BaseModel):
    """What a step changed."""

    type: Literal["step"] = "step"
    number: int
    """Which step of the answer, from 0; every step is told."""
    block: int
    """In which block it was."""
    step: int
    """Which step of its block, from 0; one that repeats an empty one has its number."""
    committed: list[CanvasToken]
    """Masks that were decided, and decided tokens that were replaced."""
    provisional: list[CanvasToken]
    """The best candidates of masks of the block, where they differ from those told last."""
    revoked: list[int]
    """Positions that were decided and are masked again."""
    filled: list[int]
    """Masks that are EOS now, as the answer has ended left of them; never decoded."""


class CanvasEnd(BaseModel):
    """Nothing follows."""

    type: Literal["end"] = "end"
    finish_reason: FinishReason
    tokens: int
    """How many tokens the answer has; what is right of them is no part of it."""


CanvasNews = Annotated[CanvasBegin | CanvasStep | CanvasEnd, Field(discriminator="type")]
