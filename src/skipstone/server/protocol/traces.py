"""``/traces``: what is kept of answers, and which two are to be held against each other."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from skipstone.server.protocol.strict import Strict

Language = Literal["en", "zh"]


class TraceCard(BaseModel):
    """A trace; nothing of a prompt or an answer."""

    id: str
    object: Literal["trace"] = "trace"
    created: int
    """Seconds since 1970."""
    state: Literal["finished", "unfinished", "damaged"]
    """Unfinished: the server was killed while it wrote."""
    level: str | None = None
    model: str | None = None
    settings: dict[str, str] = Field(default_factory=dict)
    """Of its request, by name and as on the command line."""


class TraceList(BaseModel):
    """All that are kept, the newest first."""

    object: Literal["list"] = "list"
    data: list[TraceCard]


class DiagnoseRequest(Strict):
    """Which two answers are held against each other."""

    a: str | None = None
    """Id of the baseline; left out: the same request without cache and skip, decoded for this."""
    b: str
    """Id of what is to be explained."""
