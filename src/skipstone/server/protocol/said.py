"""What is said of one answer beside its text; of Skipstone, not of OpenAI."""

from __future__ import annotations

from pydantic import BaseModel

from skipstone.server.protocol.canvas import CanvasNews


class SaidOfAnswer(BaseModel):
    """What was asked for of it."""

    canvas: CanvasNews | None = None
    """Its canvas, where ``stream_options.canvas`` asks for it."""
    trace_id: str | None = None
    """Of its trace; None: none is kept."""
    trace_error: str | None = None
    """Why a trace that was asked for is not kept, though the answer is whole."""
