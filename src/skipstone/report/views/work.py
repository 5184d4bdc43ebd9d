"""What each forward computed, over which positions, and how long it took."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import altair as alt
import numpy as np

from skipstone.record import StepRecord
from skipstone.report.runs import Study
from skipstone.report.table import Table, Word, coded, exact, lettered, whole
from skipstone.report.views.commits import height
from skipstone.report.views.view import (
    Chart,
    View,
    block_bounds,
    cross,
    layered,
    position_axis,
    sides,
    step_axis,
    step_axis_x,
    tips,
)

_KINDS = ("rows.finished", "rows.skipped")


def _shapes(study: Study, side: int) -> Table:
    """Stretches of positions that a forward computed, by whether they left early."""
    run = study.pair[side]
    rows = [
        (i, kind, first, last, step.rows.size)
        for i, pair in enumerate(study.steps)
        if (step := study.of(run, pair)) is not None
        for kind, first, last in _stretches(step)
    ]
    step, kind, first, last, count = zip(*rows, strict=True) if rows else ((),) * 5
    return Table(
        {
            "step": whole(step),
            "kind": coded(kind, _KINDS),
            "first": whole(first),
            "last": whole(last),
            "rows": whole(count),
        },
        [len(rows)],
    )


def _stretches(step: StepRecord) -> Iterator[tuple[int, int, int]]:
    finished = np.isin(step.rows, step.finished)
    for kind, positions in enumerate((step.rows[finished], step.rows[~finished])):
        ordered = np.sort(positions)
        for part in np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1):
            if part.size:
                yield kind, int(part[0]), int(part[-1])


def _shape_map(study: Study, word: Word) -> Chart:
    """Rows that left early are thinner as well as of another colour."""
    half = f"datum.kind == '{word(_KINDS[1])}' ? 0.22 : 0.42"
    base = alt.Chart(height=height(study)).transform_calculate(
        left="datum.first - 0.5",
        right="datum.last + 0.5",
        top=f"datum.step - ({half})",
        bottom=f"datum.step + ({half})",
    )
    bars = base.mark_rect().encode(
        x=position_axis(study, word, "left", prompt=True),
        x2="right:Q",
        y=step_axis(study, word, "top"),
        y2="bottom:Q",
        color=alt.Color(
            "kind:N",
            title=None,
            scale=alt.Scale(domain=[word(k) for k in _KINDS], range=["@a", "@skipped"]),
        ),
        tooltip=tips(word, "step", "kind", "first", "last", "rows"),
    )
    return layered(bars, *block_bounds(study), *cross("position", "step"))


def _effort(study: Study) -> Table:
    """Rows and time of each forward of both runs."""
    rows = [
        (i, side, step.rows.size, len(step.skipped), 1000 * step.seconds)
        for i, pair in enumerate(study.steps)
        for side, run in enumerate(study.pair)
        if (step := study.of(run, pair)) is not None
    ]
    step, side, entered, skipped, ms = zip(*rows, strict=True)
    return Table(
        {
            "step": whole(step),
            "run": lettered(side, study.letters),
            "rows": whole(entered),
            "skipped": whole(skipped),
            "milliseconds": exact(ms),
        },
        [len(rows)],
    )


def _line(field: str) -> Callable[[Study, Word], Chart]:
    def chart(study: Study, word: Word) -> Chart:
        line = (
            alt.Chart(height=170)
            .mark_line(interpolate="step", strokeWidth=1.5, point=alt.OverlayMarkDef(size=14))
            .encode(
                x=step_axis_x(study, word),
                y=alt.Y(f"{field}:Q", title=word(f"column.{field}")),
                color=alt.Color("run:N", title=None, scale=sides(study)),
                strokeDash=alt.StrokeDash("run:N", title=None),
                tooltip=tips(word, "step", "run", "rows", "skipped", "milliseconds:Q"),
            )
        )
        return layered(line, *cross("step", None))

    return chart


VIEWS = (
    View("shapes_a", lambda study: _shapes(study, 0), _shape_map, keys="step"),
    View("shapes_b", lambda study: _shapes(study, 1), _shape_map, keys="step"),
    View("skipped", _effort, _line("skipped")),
    View("milliseconds", _effort, _line("milliseconds")),
)
