"""Where the states of a step part from the baseline's, and where each of them comes from.

Shape letters: S steps, K layers, L canvas length.
"""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
import numpy as np

from skipstone.diff import tensor_pairs
from skipstone.record import Source, StepRecord, Tap
from skipstone.report.runs import Run, Study
from skipstone.report.table import Axis, Table, Word, coarse, coded, whole
from skipstone.report.theme import HEAT, RAMP
from skipstone.report.views.view import (
    Chart,
    View,
    cross,
    layer_axis,
    layered,
    position_axis,
    tips,
)

_SOURCES = tuple(f"source.{source.name.lower()}" for source in Source)
_PARTS = ("part.first", "part.deep")
_BLANKS = ("blank.cached", "blank.skipped", "blank.beyond")
_STATUS = ("status.prompt", "status.mask", "status.committed", "status.filled")
# Powers of ten between which errors have colours of their own, in units of the noise.
_LEAST, _MOST = -2.0, 6.0
_MOST_CELLS = 4_000_000


def _errors(study: Study) -> Table:
    """Error over noise of every state that both runs recorded on the same canvas."""
    layers, length = study.a.record.header.num_layers + 1, study.length
    kept = _kept_steps(study, layers * length)
    found = {i: _of_step(study, i, (layers, length)) for i in kept}
    cells = [found[i] for i in range(len(study.steps)) if i in found]
    size = layers * length
    ends = np.cumsum([size if i in found else 0 for i in range(len(study.steps))]).tolist()
    values_SKL = np.stack(cells) if cells else np.zeros((0, layers, length))
    return Table(
        {
            "layer": Axis(layers, repeat=length),
            "position": Axis(length),
            "error": coarse(values_SKL.ravel(), _LEAST, _MOST),
        },
        ends,
        needs="error",
    )


def _kept_steps(study: Study, cells: int) -> list[int]:
    """Steps that have states on both sides; of too many, those nearest to the first decision."""
    taps = (Tap.STATE, Tap.SKETCH)
    forwards = [
        {key.forward for key in run.trace.keys(run.record.header.sample) if key.tap in taps}
        for run in study.pair
    ]
    steps = [
        i
        for i, pair in enumerate(study.steps)
        if pair.how == "canvas"
        and pair.a is not None
        and pair.b is not None
        and pair.a.forward in forwards[0]
        and pair.b.forward in forwards[1]
    ]
    middle = study.first or 0
    return sorted(sorted(steps, key=lambda i: abs(i - middle))[: max(1, _MOST_CELLS // cells)])


def _of_step(study: Study, index: int, shape: tuple[int, int]) -> np.ndarray:
    """float64 [K, L]: power of ten of the error over the noise; NaN where nothing is compared."""
    found_KL = np.full(shape, np.nan)
    pair = study.steps[index]
    assert pair.a is not None
    assert pair.b is not None
    sample = study.a.record.header.sample
    a, b = (run.trace for run in study.pair)
    steps = [(pair.a, pair.b)]
    taps = (Tap.STATE, Tap.SKETCH)
    for tensors in tensor_pairs(a, b, steps, sample_a=sample, sample_b=sample, taps=taps):
        if tensors.refusal:
            continue
        errors = tensors.errors()
        noise = study.difference.floor.level(tensors.key.tap, tensors.key.layer)
        with np.errstate(divide="ignore"):
            power = np.log10(errors.relative_l2 / noise)
        power = np.where(np.isfinite(errors.relative_l2), power, _MOST)
        found_KL[tensors.key.layer, errors.positions] = np.maximum(power, _LEAST)
    return found_KL


def _blanks(study: Study) -> list[dict[str, int]]:
    """Of each step, how many states are not compared, by the word that says why."""
    layers = study.a.record.header.num_layers + 1
    return [_blanks_of(pair.a, pair.b, layers, study.length) for pair in study.steps]


def _blanks_of(
    a: StepRecord | None, b: StepRecord | None, layers: int, length: int
) -> dict[str, int]:
    if a is None or b is None:
        return {}
    both = min(a.entered_age.size, b.entered_age.size)
    entered_L = np.isin(np.arange(both), a.rows) & np.isin(np.arange(both), b.rows)
    computed_KL = _computed(a, layers, both) & _computed(b, layers, both)
    counts = (
        layers * int(both - entered_L.sum()),
        layers * int(entered_L.sum()) - int(computed_KL.sum()),
        layers * (length - both),
    )
    return {reason: count for reason, count in zip(_BLANKS, counts, strict=True) if count}


def _computed(step: StepRecord, layers: int, length: int) -> np.ndarray:
    """Bool [K, L]: which states a step computed, the embedding first."""
    return np.stack([np.isin(np.arange(length), step.computed_in(k)) for k in range(layers)])


def _error_map(study: Study, word: Word) -> Chart:
    layers = study.a.record.header.num_layers
    base = alt.Chart(height=min(420, max(200, 13 * (layers + 1)))).transform_calculate(
        left="datum.position - 0.5",
        right="datum.position + 0.5",
        low="datum.layer - 0.5",
        high="datum.layer + 0.5",
        noise=f"'{word('legend.within')}'",
    )
    tooltip = tips(word, "position", "layer", "error:Q")
    cells = (
        base.transform_filter("datum.error > 0")
        .mark_rect(strokeWidth=0)
        .encode(
            x=position_axis(study, word, "left", prompt=True),
            x2="right:Q",
            y=layer_axis(layers, word, "low"),
            y2="high:Q",
            color=alt.Color(
                "error:Q",
                title=word("column.error"),
                scale=alt.Scale(range=HEAT, domain=[0, 5], clamp=True),
                legend=alt.Legend(values=[0, 1, 2, 3, 4, 5], labelExpr=_POWERS),
            ),
            tooltip=tooltip,
        )
    )
    within = (
        base.transform_filter("datum.error <= 0")
        .mark_point(filled=True, size=6, color="@grey", opacity=1)
        .encode(
            x=position_axis(study, word, prompt=True),
            y=layer_axis(layers, word),
            shape=alt.Shape(
                "noise:N",
                title=None,
                scale=alt.Scale(domain=[word("legend.within")], range=["square"]),
                legend=alt.Legend(symbolSize=16),
            ),
            tooltip=tooltip,
        )
    )
    start = alt.Chart(alt.InlineData([{"position": study.prompt_length - 0.5}]))
    edge = start.mark_rule(strokeDash=[3, 3], color="@grey").encode(x="position:Q")
    return layered(cells, within, edge, *cross("position", "layer"))


# Powers of ten as times.
_POWERS = "['1 ×','10 ×','100 ×','1,000 ×','10⁴ ×','10⁵ ×'][datum.value]"


def _provenance(study: Study) -> Table:
    """Of each position, how old the states of both runs are, before and after the skip layer."""
    length, steps = study.length, study.steps
    blocks = [list(_ages(study, run, length)) for run in study.pair]
    age, source, status = (
        np.stack([[b[i] for b in side] for side in blocks], axis=1) for i in range(3)
    )
    cells = age[0].size
    return Table(
        {
            "run": Axis(2, repeat=2 * length, texts=study.letters),
            "part": Axis(2, repeat=length, labels=_PARTS),
            "position": Axis(length),
            "age": whole(age.ravel()),
            "source": coded(source.ravel(), _SOURCES),
            "status": coded(status.ravel(), _STATUS),
        },
        [cells * (i + 1) for i in range(len(steps))],
        needs="source",
    )


def _ages(
    study: Study, run: Run, length: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Age, source and status of one run, int [2, L] each, step by step; -1 where it has none."""
    for pair in study.steps:
        step = study.of(run, pair)
        age, source, status = (np.full((2, length), -1) for _ in range(3))
        if step is not None:
            n = step.entered_age.size
            age[:, :n] = step.entered_age, step.finished_age
            source[:, :n] = _sources(step)
            status[:, : step.prompt_length] = 0
            status[:, step.prompt_length : n] = step.status_before - 1
        yield age, source, status


def _sources(step: StepRecord) -> np.ndarray:
    """Int [2, L]: as in ``Source``."""
    age_2L = np.stack([step.entered_age, step.finished_age])
    entered = np.isin(np.arange(step.entered_age.size), step.rows)
    old = np.where(entered, Source.SKIPPED, Source.CACHED)
    return np.where(age_2L < 0, Source.NEVER, np.where(age_2L == 0, Source.COMPUTED, old))


def _oldest(study: Study) -> int:
    """The highest age of any state."""
    steps = [step for run in study.pair for step in run.record.steps]
    return max(int(max(step.entered_age.max(), step.finished_age.max())) for step in steps)


def _provenance_strip(study: Study, word: Word) -> Chart:
    lanes = [f"{letter} {word(part)}" for letter in study.letters for part in _PARTS]
    base = alt.Chart(height=120).transform_calculate(
        left="datum.position - 0.5",
        right="datum.position + 0.5",
        lane="datum.run + ' ' + datum.part",
    )
    y = alt.Y("lane:N", title=None, sort=lanes, scale=alt.Scale(domain=lanes))
    cells = base.mark_rect().encode(
        x=position_axis(study, word, "left", prompt=True),
        x2="right:Q",
        y=y,
        color=alt.Color(
            "age:Q",
            title=word("column.age"),
            scale=alt.Scale(type="sqrt", range=RAMP, domain=[0, max(1, _oldest(study))]),
            legend=alt.Legend(format="d", tickMinStep=1),
        ),
        tooltip=tips(word, "run", "part", "position", "source", "age", "status"),
    )
    old = [word(s) for s in _SOURCES[1:]]
    marks = base.mark_point(filled=True, opacity=1).encode(
        x=position_axis(study, word, prompt=True),
        y=y,
        shape=alt.Shape(
            "source:N",
            title=None,
            scale=alt.Scale(domain=old, range=["circle", "triangle-up", "cross"]),
        ),
        # Cells stand out from the ground, so the ground stands out from them; a legend takes what
        # holds where the condition does not.
        fill=alt.condition("true", alt.value("@ground"), alt.value("@ink")),
        size=alt.condition(f"datum.source == '{old[0]}'", alt.value(12), alt.value(44)),
    )
    told = marks.transform_filter(f"datum.source != '{word(_SOURCES[0])}'")
    return layered(cells, told, *cross("position", None))


VIEWS = (
    View("errors", _errors, _error_map, keys="layer", by_step=True, blanks=_blanks),
    View("provenance", _provenance, _provenance_strip, keys="step", by_step=True),
)
