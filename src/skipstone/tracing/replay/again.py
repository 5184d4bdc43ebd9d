"""A recorded request decoded again from its beginning, as it was asked for."""

from __future__ import annotations

from skipstone.engine import Engine
from skipstone.engine.observe import Observer
from skipstone.engine.result import Result
from skipstone.host_canvas import Status
from skipstone.record import RunRecord


def decode_again(engine: Engine, record: RunRecord, observer: Observer | None = None) -> Result:
    """Decode the prompt of a record, or fill in its canvas, with the settings of an engine.

    Args:
        engine: of the settings.
        record: which request.
        observer: shown every step.
    """
    canvas = canvas_of(record)
    if canvas is None:
        return engine.generate(record.header.prompt_ids, observer=observer)
    return engine.edit(canvas, observer=observer, eos_stop=engine.settings.eos_stop)


def canvas_of(record: RunRecord) -> list[int] | None:
    """The canvas whose masks a request has filled in; None if it followed a prompt."""
    first = record.steps[0] if record.steps else None
    if first is None or not (first.status_before == Status.PROMPT).any():
        return None
    return [*record.header.prompt_ids, *first.ids_before.tolist()]
