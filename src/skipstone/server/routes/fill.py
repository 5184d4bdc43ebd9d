"""``POST /v1/fill``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from skipstone.server.access.account import account_of
from skipstone.server.answer.choices import Answers, silent, submit
from skipstone.server.answer.gaps import GappedText
from skipstone.server.answer.plan import check_model, fills
from skipstone.server.answer.stream import unless_gone
from skipstone.server.protocol.body import StrictRoute
from skipstone.server.protocol.common import new_id, now
from skipstone.server.protocol.errors import OURS, AnswerError, naming
from skipstone.server.protocol.fill import Fill, FillChoice, FillRequest
from skipstone.server.served import ServedModel


def fill_routes(served: ServedModel) -> APIRouter:
    """The endpoint, for what is served."""
    routes = APIRouter(route_class=StrictRoute)

    @routes.post("/v1/fill")
    async def fill(asked: FillRequest, request: Request) -> Fill:
        """Put text into the gaps of a text."""
        check_model(served, asked.model)
        account, model = account_of(request), served.engine.model
        with naming(asked.prompt_field):
            gapped = await run_in_threadpool(GappedText.of, asked.pieces(), model)
            every = fills(served, asked, gapped.canvas, account.seed)
            answers = submit(served, account, every, 1)
        await unless_gone(request.receive, answers.read(silent))
        return Fill(
            id=new_id("fill"),
            created=now(),
            model=asked.model,
            choices=_choices(answers, gapped),
            usage=answers.usage(),
            skipstone=answers.said(),
        )

    return routes


def _choices(answers: Answers, gapped: GappedText) -> list[FillChoice]:
    """The text of each answer.

    Raises:
        AnswerError: one still has gaps.
    """
    found = list[FillChoice]()
    for choice in answers.choices:
        if not choice.text.whole:
            said = "the server was stopped before the text was whole"
            raise AnswerError(503, said, kind=OURS, code="stopped")
        text, spans = gapped.filled(choice.text.ids, answers.served.engine.model)
        found.append(
            FillChoice(index=choice.index, text=text, spans=spans, skipstone=choice.said())
        )
    return found
