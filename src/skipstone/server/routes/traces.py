"""``/traces``: what is kept of answers, as files, pages and diagnoses."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from skipstone.engine.settings import parse_fields
from skipstone.record import open_trace
from skipstone.record.copied import write_trace
from skipstone.server.access.queue import check_queue
from skipstone.server.answer.stream import unless_gone
from skipstone.server.protocol.body import StrictRoute
from skipstone.server.protocol.traces import DiagnoseRequest, Language, TraceList
from skipstone.server.served import ServedModel
from skipstone.server.traces.examiner import Examiner
from skipstone.tracing import Recorder
from skipstone.tracing.replay.again import canvas_of

_EXACT = "exact"
_PART_BYTES = 2**18
_PAGE = "report.html"
_NOT_STORED = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def trace_routes(served: ServedModel) -> APIRouter:
    """The endpoints, for what is served."""
    routes = APIRouter(route_class=StrictRoute)
    examiner = Examiner(served.engine.model, served.options.diagnosis_limit)

    @routes.get("/traces")
    async def traces() -> TraceList:
        """What is kept, the newest first."""
        return TraceList(data=await run_in_threadpool(served.traces.cards))

    @routes.get("/traces/{trace}", response_class=StreamingResponse)
    async def trace(trace: str) -> StreamingResponse:
        """A trace, as a zip of its folder."""
        packed = await run_in_threadpool(served.traces.pack, trace)
        length = packed.seek(0, SEEK_END)
        named = {"content-disposition": f'attachment; filename="{trace}.zip"'}
        return StreamingResponse(
            _parts(packed),
            media_type="application/zip",
            headers={**_NOT_STORED, **named, "content-length": f"{length}"},
        )

    @routes.get("/traces/{trace}/report", response_class=HTMLResponse)
    async def report(
        request: Request, trace: str, against: str | None = None, lang: Language = "en"
    ) -> HTMLResponse:
        """A page about an answer held against another one, with the proven cause."""

        async def page() -> str:
            async with _pair(served, examiner, against, trace) as (folder, a):
                await examiner.ask(folder, "report", a, trace, "-o", _PAGE, "--lang", lang)
                return await run_in_threadpool((folder / _PAGE).read_text, "utf-8")

        return HTMLResponse(await unless_gone(request.receive, page()), headers=_NOT_STORED)

    @routes.post("/traces/diagnose")
    async def diagnose(asked: DiagnoseRequest, request: Request) -> dict[str, object]:
        """Why an answer is not another one: where they part first, the cause, its proof."""

        async def found() -> dict[str, object]:
            async with _pair(served, examiner, asked.a, asked.b) as (folder, a):
                printed = await examiner.ask(folder, "diagnose", a, asked.b, "--json")
                return {"object": "diagnosis", "a": a, "b": asked.b, **json.loads(printed)}

        return await unless_gone(request.receive, found())

    return routes


def _parts(packed: BinaryIO) -> Iterator[bytes]:
    """A file from its begin, part by part; it is closed in the end."""
    with packed:
        packed.seek(0)
        while part := packed.read(_PART_BYTES):
            yield part


@asynccontextmanager
async def _pair(
    served: ServedModel, examiner: Examiner, a: str | None, b: str
) -> AsyncIterator[tuple[Path, str]]:
    """A folder with copies of two traces, and the name of the first; gone in the end.

    Args:
        served: what keeps them.
        examiner: whose turn is taken.
        a: id of the first; None: the request of the other one, without cache and skip.
        b: id of the second.
    """
    # A wrong id takes no turn, which would refuse the right ones of somebody else meanwhile.
    await run_in_threadpool(served.traces.check, b, *([] if a is None else [a]))
    with examiner.turn(), tempfile.TemporaryDirectory(prefix="skipstone-") as made:
        folder = Path(made)
        await run_in_threadpool(served.traces.copy, b, folder)
        if a is None:
            await _decode_exactly(served, folder, b)
        elif a != b:
            await run_in_threadpool(served.traces.copy, a, folder)
        yield folder, _EXACT if a is None else a


async def _decode_exactly(served: ServedModel, folder: Path, name: str) -> None:
    """Decode the request of a trace again, beside all others, with all rows in every forward."""
    with open_trace(folder / name) as trace:
        header, canvas = trace.headers[0], canvas_of(trace.records[0])
    settings = parse_fields({**header.settings, "cache": "none", "skip": "none"})
    check_queue(served.engine.load, 1, served.options.max_waiting, served.recent)
    recorder = Recorder()
    if canvas is None:
        await served.engine.submit(list(header.prompt_ids), observer=recorder, **settings)
    else:
        del settings["gen_length"]
        await served.engine.submit_canvas(canvas, observer=recorder, **settings)
    await run_in_threadpool(write_trace, recorder.trace, folder / _EXACT)
