"""Which step commits which position: of each run, and both in one picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np

from skipstone.record import RunRecord, StepRecord
from skipstone.report.runs import Run, Study
from skipstone.report.table import Table, Word, coded, named, precise, whole
from skipstone.report.theme import RAMP
from skipstone.report.views.view import (
    Chart,
    View,
    block_bounds,
    cross,
    layered,
    position_axis,
    step_axis,
    tips,
)

_KINDS = ("commit.committed", "commit.filled", "commit.mask", "commit.edited")
_RELATIONS = ("relation.same", "relation.later", "relation.token", "relation.one")


@dataclass(frozen=True)
class CommitOrigin:
    """How one position came to its last token."""

    position: int
    step: int
    """Index among the steps of the report; of a mask that is left, the last one."""
    kind: int
    """Index of its name."""
    token: int
    confidence: float
    """NaN if no rule chose it."""


def commits_of(record: RunRecord, index: Callable[[int], int | None]) -> Iterator[CommitOrigin]:
    """The last commit of each new position, or the mask that is left there.

    Args:
        record: the run.
        index: place of a forward among the steps of the report.
    """
    found = dict[int, CommitOrigin]()
    last = 0
    for step in record.steps:
        place = index(step.forward)
        last = last if place is None else place
        found.update((commit.position, commit) for commit in _of_step(step, last))
    for i, token in enumerate(record.tokens):
        position = record.prompt_length + i
        left = CommitOrigin(position, last, 2, token, float("nan"))
        yield left if token == record.header.mask_id else found.get(position, left)


def _of_step(step: StepRecord, place: int) -> Iterator[CommitOrigin]:
    table, edited = step.candidates, frozenset(step.edited)
    for i in np.flatnonzero(table.committed).tolist():
        position, token = int(table.position[i]), int(table.token[i])
        kind = 3 if position in edited else 0
        yield CommitOrigin(position, place, kind, token, float(table.confidence[i]))
    filled = np.flatnonzero((step.status_after == 4) & (step.status_before != 4))
    for i in filled.tolist():
        yield CommitOrigin(step.prompt_length + i, place, 1, int(step.ids_after[i]), float("nan"))


def _table(study: Study, commits: Sequence[CommitOrigin]) -> Table:
    return Table(
        {
            "position": whole([c.position for c in commits]),
            "step": whole([c.step for c in commits]),
            "commit": coded([c.kind for c in commits], _KINDS),
            "token": named([study.token(c.token) for c in commits]),
            "confidence": precise([c.confidence for c in commits]),
        },
        [len(commits)],
    )


def _rows(study: Study, run: Run) -> Table:
    return _table(study, list(commits_of(run.record, lambda f: study.index(run, f))))


def _map(study: Study, word: Word) -> Chart:
    x, y = position_axis(study, word), step_axis(study, word)
    base = alt.Chart(height=height(study))
    known = base.transform_filter(f"datum.commit != '{word(_KINDS[2])}'").transform_calculate(
        left="datum.position - 0.5", right="datum.position + 0.5", end=str(len(study.steps) - 0.5)
    )
    trail = known.mark_rect(color="@trail").encode(
        x=position_axis(study, word, "left"), x2="right:Q", y=y, y2="end:Q"
    )
    marks = base.mark_point(size=44, filled=True, opacity=1).encode(
        x=x,
        y=y,
        shape=alt.Shape(
            "commit:N",
            legend=alt.Legend(title=None),
            scale=alt.Scale(
                domain=[word(k) for k in _KINDS],
                range=["square", "diamond", "cross", "triangle-up"],
            ),
        ),
        color=alt.Color(
            "confidence:Q",
            legend=alt.Legend(title=word("column.confidence"), gradientLength=110),
            scale=alt.Scale(range=RAMP, domain=[0, 1], clamp=True),
        ),
        tooltip=tips(word, "position", "token", "commit", "confidence:Q"),
    )
    return layered(
        trail, *block_bounds(study), marks, *first_ring(study), *cross("position", "step")
    )


def difference_map(study: Study, word: Word) -> Chart:
    """Both runs in one picture: a line joins the steps of a position that is committed apart."""
    x, y = position_axis(study, word), step_axis(study, word)
    base = alt.Chart(height=height(study))
    apart = base.mark_rule(color="@grey").encode(x=x, y=y, y2="step_b:Q")
    relation = alt.Color(
        "relation:N",
        legend=alt.Legend(title=None),
        scale=alt.Scale(
            domain=[word(k) for k in _RELATIONS], range=["@grey", "@late", "@other", "@ink"]
        ),
    )
    shape = alt.Shape(
        "relation:N",
        legend=alt.Legend(title=None),
        scale=alt.Scale(
            domain=[word(k) for k in _RELATIONS],
            range=["circle", "triangle-up", "cross", "diamond"],
        ),
    )
    tooltip = tips(word, "position", "relation", "token_a", "token_b", "step_a", "step_b")
    a = base.mark_point(size=44, filled=True, opacity=1).encode(
        x=x, y=y, color=relation, shape=shape, tooltip=tooltip
    )
    b = base.mark_point(size=44, opacity=1).encode(
        x=x,
        y=step_axis(study, word, "step_b"),
        color=relation,
        shape=shape,
        tooltip=tooltip,
    )
    return layered(
        *block_bounds(study), apart, b, a, *first_ring(study), *cross("position", "step")
    )


def _difference_rows(study: Study) -> Table:
    sides = [
        {c.position: c for c in commits_of(run.record, lambda f, run=run: study.index(run, f))}
        for run in study.pair
    ]
    positions = sorted({*sides[0], *sides[1]})
    pairs = [(sides[0].get(p), sides[1].get(p)) for p in positions]
    step = [[-1 if c is None else c.step for c in side] for side in zip(*pairs, strict=True)]
    token = [
        ["" if c is None else study.token(c.token) for c in side]
        for side in zip(*pairs, strict=True)
    ]
    return Table(
        {
            "position": whole(positions),
            "step": whole([a if a >= 0 else b for a, b in zip(*step, strict=True)]),
            "step_a": whole(step[0]),
            "step_b": whole(step[1]),
            "relation": coded([_relation(a, b) for a, b in pairs], _RELATIONS),
            "token_a": named(token[0]),
            "token_b": named(token[1]),
        },
        [len(positions)],
    )


def _relation(a: CommitOrigin | None, b: CommitOrigin | None) -> int:
    if a is None or b is None or (a.kind == 2) != (b.kind == 2):
        return 3
    if a.token != b.token:
        return 2
    return 0 if a.step == b.step else 1


def first_ring(study: Study) -> list[alt.Chart]:
    """A ring around the first decision that differs."""
    found, step = study.difference.decision, study.first
    if found is None or step is None:
        return []
    data = alt.InlineData([{"position": found.position, "step": step}])
    ring = alt.Chart(data).mark_point(size=320, strokeWidth=2.5, color="@b", opacity=1)
    return [ring.encode(x="position:Q", y="step:Q")]


def height(study: Study) -> int:
    """Pixels for the steps: room for each, within reason."""
    return min(560, max(180, 6 * len(study.steps)))


VIEWS = (
    View("commits_a", lambda study: _rows(study, study.a), _map, keys="step"),
    View("commits_b", lambda study: _rows(study, study.b), _map, keys="step"),
    View("commits_difference", _difference_rows, difference_map, keys="step"),
)
