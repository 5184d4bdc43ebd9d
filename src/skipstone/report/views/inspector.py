"""One step's decisions: what each masked position would take, how sure it is, and who commits."""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
import numpy as np

from skipstone.record import Candidates, StepRecord, Tap, TensorKey
from skipstone.report.runs import Run, Study
from skipstone.report.table import Table, Word, coded, ends_of, lettered, named, precise, whole
from skipstone.report.views.view import (
    Chart,
    View,
    cross,
    layered,
    position_axis,
    shapes,
    sides,
    tips,
)

_FATES = (
    "fate.commits",
    "fate.holds",
    "fate.barred",
    "fate.edits",
    "fate.keeps",
    "fate.revokes",
)
_SHOWN_TOKENS = 5


def _candidates(study: Study) -> Table:
    """Every candidate of both runs, step by step."""
    found = [
        (i, side, step)
        for i, pair in enumerate(study.steps)
        for side, run in enumerate(study.pair)
        if (step := study.of(run, pair)) is not None
    ]
    tables = [step.candidates for _, _, step in found]
    steps = np.concatenate([np.full(len(step.candidates), i) for i, _, step in found])
    return Table(
        {
            "run": lettered(
                np.concatenate([np.full(len(step.candidates), side) for _, side, step in found]),
                study.letters,
            ),
            "position": whole(_joined(tables, "position")),
            "token": named([study.token(t) for t in _joined(tables, "token").tolist()]),
            "confidence": precise(_joined(tables, "confidence")),
            "bound": precise(_joined(tables, "bound")),
            "runner_up": named([study.token(t) for t in _joined(tables, "runner_up").tolist()]),
            "margin": precise(
                _joined(tables, "confidence") - _joined(tables, "runner_up_confidence")
            ),
            "rank": whole(_joined(tables, "rank")),
            "ties": whole(np.concatenate([_ties(t) for t in tables])),
            "age": whole(_joined(tables, "age")),
            "fate": coded(np.concatenate([_fates(step) for _, _, step in found]), _FATES),
        },
        ends_of(steps, len(study.steps)),
    )


def _joined(tables: list[Candidates], name: str) -> np.ndarray:
    return np.concatenate([getattr(table, name) for table in tables])


def _ties(table: Candidates) -> np.ndarray:
    """Int [C]: other candidates of exactly the same confidence."""
    _, inverse, counts = np.unique(table.confidence, return_inverse=True, return_counts=True)
    return counts[inverse] - 1


def _fates(step: StepRecord) -> np.ndarray:
    """Int [C]: as in ``_FATES``; a committed token is edited, kept or taken back."""
    table = step.candidates
    written = ~step.masked[table.position - step.prompt_length]
    return np.where(
        table.committed,
        np.where(np.isin(table.position, step.revoked), 5, np.where(written, 3, 0)),
        np.where(table.eligible, np.where(written, 4, 1), 2),
    )


def _decision_plot(study: Study, word: Word) -> Chart:
    base = alt.Chart(height=220)
    bound = base.mark_tick(thickness=2, opacity=1).encode(
        x=position_axis(study, word), y="bound:Q", color=alt.Color("run:N", scale=sides(study))
    )
    _, holds, barred, _, keeps, _ = (f"datum.fate == '{word(fate)}'" for fate in _FATES)
    held = f"{holds} || {keeps}"
    points = base.mark_point(filled=True, strokeWidth=1.5, opacity=1).encode(
        x=position_axis(study, word),
        y=alt.Y("confidence:Q", title=word("column.confidence"), scale=alt.Scale(domain=[0, 1.02])),
        stroke=alt.Stroke("run:N", title=None, scale=sides(study)),
        fill=alt.Fill("run:N", title=None, scale=sides(study)),
        shape=alt.Shape("run:N", title=None, scale=shapes(study)),
        fillOpacity=alt.condition(held, alt.value(0), alt.value(1)),
        size=alt.condition(barred, alt.value(16), alt.value(80)),
        tooltip=tips(
            word,
            "run",
            "position",
            "token",
            "confidence:Q",
            "bound:Q",
            "runner_up",
            "margin:Q",
            "rank",
            "ties",
            "age",
            "fate",
        ),
    )
    return layered(bound, points, *cross("position", None))


def _top(study: Study) -> Table:
    """The most probable tokens of every position that a step of either run commits."""
    rows = [
        (i, side, *row)
        for i, pair in enumerate(study.steps)
        for side, run in enumerate(study.pair)
        for row in _top_of(study, run, study.of(run, pair), _decided(pair.a, pair.b))
    ]
    step, side, position, token, probability = zip(*rows, strict=True) if rows else ((),) * 5
    return Table(
        {
            "run": lettered(side, study.letters),
            "position": whole(position),
            "token": named([study.token(t) for t in token]),
            "probability": precise(probability),
        },
        ends_of(step, len(study.steps)),
    )


def _decided(a: StepRecord | None, b: StepRecord | None) -> set[int]:
    return {p for step in (a, b) if step is not None for p in step.committed}


def _top_of(
    study: Study, run: Run, step: StepRecord | None, positions: set[int]
) -> Iterator[tuple[int, int, float]]:
    """Position, token and probability, the most probable first."""
    if step is None:
        return
    header = run.record.header
    key = TensorKey(step.forward, Tap.LOGITS, header.num_layers)
    logits = run.trace.tensor(header.sample, key)
    there = set() if logits is None else set(logits.positions.tolist())
    for position in sorted(positions):
        if logits is not None and position in there:
            (scores_V,) = logits.at(np.array([position]))
            top = np.argsort(-scores_V, kind="stable")[:_SHOWN_TOKENS]
            shares_V = np.exp(scores_V - scores_V.max())
            for token in top.tolist():
                yield position, token, float(shares_V[token] / shares_V.sum())
        elif (found := step.candidates.at(position)) is not None:
            yield position, found.token, found.confidence
            yield position, found.runner_up, found.confidence - found.margin


def _top_bars(study: Study, word: Word) -> Chart:
    return (
        alt.Chart(height=160)
        .transform_filter("datum.position == cursor_position")
        .mark_bar()
        .encode(
            x=alt.X(
                "probability:Q", title=word("column.probability"), scale=alt.Scale(domain=[0, 1])
            ),
            y=alt.Y("token:N", title=None, sort="-x"),
            yOffset="run:N",
            color=alt.Color("run:N", title=None, scale=sides(study)),
            tooltip=tips(word, "run", "token", "probability:Q"),
        )
    )


VIEWS = (
    View("candidates", _candidates, _decision_plot, keys="step", by_step=True),
    View("top", _top, _top_bars, keys="step", by_step=True),
)
