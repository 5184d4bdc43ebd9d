"""The trace of one answer, while it is decoded and when it is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from starlette.concurrency import run_in_threadpool

from skipstone.engine.request import Handle
from skipstone.errors import SkipstoneError, nearest
from skipstone.quoting import shown
from skipstone.server.protocol.errors import AnswerError
from skipstone.server.traces.kept import KeptTraces
from skipstone.tracing import Recorder
from skipstone.tracing.record.recorder import Level

TraceLevel = Literal["decisions", "sketches"]
"""Levels of a recorder that fit into the memory of a server."""


@dataclass(eq=False)
class AnswerTrace:
    """What is recorded of one answer."""

    level: TraceLevel
    id: str | None = None
    """Under which it is kept; None: it is not."""
    failure: str | None = None
    """Why it is not kept, though the answer is whole."""
    recorder: Recorder = field(init=False)
    """In memory: no disk holds up a step."""

    def __post_init__(self) -> None:
        """Nothing is recorded yet."""
        self.recorder = Recorder(self.level)

    async def keep(self, handle: Handle, kept: KeptTraces) -> None:
        """Keep it, where its request is decoded; whatever comes of that, the answer stands."""
        if handle.cancelled() or not handle.done():
            # The thread that decodes may still write to it.
            self.failure = "the answer ended before it was whole"
            return
        try:
            self.id = await run_in_threadpool(kept.keep, self.recorder.trace)
        except SkipstoneError as error:
            self.failure = str(error)


def level_of(name: object, kept: KeptTraces) -> TraceLevel:
    """The level that a request asks for.

    Raises:
        AnswerError: there is none of this name, or this server does not record at it.
    """
    levels = get_args(TraceLevel)
    if name in get_args(Level) and name not in levels:
        said = (
            f"trace is {shown(name)}, which keeps the tensors of every layer: not recorded by a "
            f"server; ask for {' or '.join(levels)}, and run 'skipstone step' on that trace"
        )
    elif name not in levels:
        said = f"trace is {shown(name)}; {nearest(str(name), levels)}"
    elif not kept.most:
        said = "trace is there, and this server keeps none (--keep-traces 0); leave it out"
    else:
        return cast("TraceLevel", name)
    raise AnswerError(400, said, param="skipstone.trace", code="invalid_value")
