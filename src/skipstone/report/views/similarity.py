"""What the skip rule saw: similarities by token and layer, and how far from the threshold they are.

Similarities crowd just below 1, so they are drawn in *nines*: -log10(1 - similarity). 0.99 has two.

Shape letters: J judged rows, S compared layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import altair as alt
import ml_dtypes
import numpy as np

from skipstone.policies import SKIP
from skipstone.record import Judgements
from skipstone.report.runs import Run, Study
from skipstone.report.table import (
    Table,
    Word,
    coarse,
    coded,
    ends_of,
    exact,
    lettered,
    whole,
)
from skipstone.report.theme import RAMP
from skipstone.report.views.view import (
    Chart,
    View,
    cross,
    layer_axis,
    layered,
    position_axis,
    sides,
    tips,
)

_MOST_NINES = 7.0
"""What is nearer to 1 counts as 1: float32 ends here."""
_BINS = 56
_VERDICTS = ("judged.skips", "judged.forced", "judged.goes_on")


def nines(similarity: np.ndarray) -> np.ndarray:
    """-log10(1 - similarity), from 0 to 7."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(-np.log10(1 - np.asarray(similarity, dtype=np.float64)), 0, _MOST_NINES)


@dataclass(frozen=True)
class SkipThreshold:
    """What a run holds its rows against, and the dtype that it is compared in."""

    threshold: float
    dtype: str

    @classmethod
    def of(cls, run: Run) -> SkipThreshold | None:
        """What the policy of a run says; None if it says nothing, or is not known here."""
        policy = SKIP.recorded(run.record.header.settings)
        bar = None if policy is None else policy.bar
        return None if bar is None else cls(bar.value, bar.dtype)

    def grid(self) -> list[float]:
        """The numbers that its dtype has from 0.9 to 1, if they are few enough to be seen."""
        if self.dtype not in ("bfloat16", "float16"):
            return []
        spacing = float(ml_dtypes.finfo(np.dtype(self.dtype)).eps) / 2
        return [1 - i * spacing for i in range(int(0.1 / spacing) + 1)]

    def band(self, noise: float) -> tuple[float, float]:
        """Similarities around the threshold that the arithmetic cannot tell from it."""
        grid = self.grid()
        step = grid[0] - grid[1] if grid else 0.0
        width = max(noise, step)
        return self.threshold - width, min(1.0, self.threshold + width)


def _judged(study: Study) -> Iterator[tuple[int, int, Judgements]]:
    """Step, side and judgements, where the skip rule was asked."""
    for i, pair in enumerate(study.steps):
        for side, run in enumerate(study.pair):
            step = study.of(run, pair)
            if step is not None and step.judgements is not None and len(step.judgements):
                yield i, side, step.judgements


def _layers(side: int, study: Study) -> Table:
    """Similarity of each row and layer of one run, step by step."""
    found = [(i, judged) for i, of, judged in _judged(study) if of == side]
    position = [np.repeat(j.position, j.similarity.shape[1]) for _, j in found]
    layer = [np.tile(np.arange(1, j.similarity.shape[1] + 1), len(j)) for _, j in found]
    value = [nines(j.similarity).ravel() for _, j in found]
    verdict = [np.repeat(_verdicts(j), j.similarity.shape[1]) for _, j in found]
    mean = [np.repeat(nines(j.mean), j.similarity.shape[1]) for _, j in found]
    other = [np.repeat(_other(j), j.similarity.shape[1]) for _, j in found]
    steps = [np.full(j.similarity.size, i) for i, j in found]
    return Table(
        {
            "position": whole(_flat(position)),
            "layer": whole(_flat(layer)),
            "nines": coarse(_flat(value), 0, _MOST_NINES, 225),
            "mean_nines": coarse(_flat(mean), 0, _MOST_NINES, 225),
            "verdict": coded(_flat(verdict), _VERDICTS),
            "compared_with": whole(_flat(other)),
        },
        ends_of(_flat(steps), len(study.steps)),
    )


def _flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _verdicts(judged: Judgements) -> np.ndarray:
    return np.where(judged.skipped, 0, np.where(judged.stable, 1, 2))


def _other(judged: Judgements) -> np.ndarray:
    """The position a row was compared with where it is not its own; -1 elsewhere."""
    return np.where(judged.reference_position == judged.position, -1, judged.reference_position)


def _layer_map(study: Study, word: Word) -> Chart:
    deepest = max((j.similarity.shape[1] for _, _, j in _judged(study)), default=1)
    base = alt.Chart(height=min(300, max(130, 15 * (deepest + 2)))).transform_calculate(
        left="datum.position - 0.5",
        right="datum.position + 0.5",
        low="datum.layer - 0.5",
        high="datum.layer + 0.5",
    )
    cells = base.mark_rect().encode(
        x=position_axis(study, word, "left"),
        x2="right:Q",
        y=layer_axis(deepest, word, "low"),
        y2="high:Q",
        color=alt.Color(
            "nines:Q",
            title=word("column.nines"),
            scale=alt.Scale(range=RAMP, domain=[0, 5], clamp=True),
            legend=alt.Legend(labelExpr=_NAMED),
        ),
        tooltip=tips(
            word, "position", "layer", "nines:Q", "mean_nines:Q", "verdict", "compared_with"
        ),
    )
    verdicts = (
        base.transform_filter("datum.layer == 1")
        .mark_point(size=36, filled=True, opacity=1, color="@ink")
        .encode(
            x=position_axis(study, word),
            y=alt.YDatum(0, type="quantitative"),
            shape=alt.Shape(
                "verdict:N",
                title=None,
                scale=alt.Scale(
                    domain=[word(v) for v in _VERDICTS], range=["triangle-up", "diamond", "circle"]
                ),
            ),
        )
    )
    return layered(cells, verdicts, *cross("position", "layer"))


# Nines as the similarity they stand for.
_NAMED = "['0','0.9','0.99','0.999','0.9999','0.99999','0.999999','1'][datum.value]"


def _histogram(study: Study) -> Table:
    """How often each similarity was seen: of single layers, and of the means that decide."""
    edges = np.linspace(0, _MOST_NINES, _BINS + 1)
    rows = list[tuple[int, str, float, float, int]]()
    for side in range(2):
        judged = [j for _, of, j in _judged(study) if of == side]
        kinds = {
            "kind.layer": _flat([nines(j.similarity).ravel() for j in judged]),
            "kind.mean": _flat([nines(j.mean) for j in judged]),
        }
        for kind, values in kinds.items():
            counts, _ = np.histogram(values, edges)
            rows += [
                (side, kind, edges[i], edges[i + 1], counts[i])
                for i in np.flatnonzero(counts).tolist()
            ]
    side, kind, low, high, count = zip(*rows, strict=True) if rows else ((),) * 5
    kinds = ("kind.layer", "kind.mean")
    return Table(
        {
            "run": lettered(side, study.letters),
            "kind": coded([kinds.index(k) for k in kind], kinds),
            "low": exact(low),
            "high": exact(high),
            "count": whole(count),
        },
        [len(rows)],
    )


def _histogram_chart(study: Study, word: Word) -> Chart:
    x = alt.X(
        "low:Q",
        title=word("axis.similarity"),
        scale=alt.Scale(domain=[0, _MOST_NINES], nice=False),
        axis=alt.Axis(labelExpr=_NAMED, values=list(range(8)), grid=False),
    )
    base = alt.Chart(height=220).encode(
        x=x,
        x2="high:Q",
        y=alt.Y("count:Q", title=word("column.count"), stack=None, scale=alt.Scale(type="symlog")),
        y2=alt.Y2Datum(0),
        stroke=alt.Stroke("run:N", title=None, scale=sides(study), legend=None),
        tooltip=tips(word, "run", "kind", "low:Q", "high:Q", "count"),
    )
    chosen = (
        base.transform_filter(f"datum.kind == '{word('kind.mean')}'")
        .mark_bar(fillOpacity=0.55, strokeWidth=1)
        .encode(fill=alt.Fill("run:N", title=None, scale=sides(study)))
    )
    single = base.transform_filter(f"datum.kind == '{word('kind.layer')}'").mark_bar(
        filled=False, strokeWidth=1, strokeDash=[3, 2]
    )
    return layered(*_band(study), chosen, single, *_grid(study), *_threshold(study, word))


def _rules(study: Study) -> list[SkipThreshold]:
    rules = (SkipThreshold.of(run) for run in study.pair)
    return list(dict.fromkeys(rule for rule in rules if rule is not None))


def _band(study: Study) -> list[alt.Chart]:
    bands = [rule.band(study.difference.floor.similarity) for rule in _rules(study)]
    values = [
        {"from": float(nines(np.array(low))), "to": float(nines(np.array(high)))}
        for low, high in bands
    ]
    if not values:
        return []
    band = alt.Chart(alt.InlineData(values)).mark_rect(color="@band", stroke="@skipped")
    return [band.encode(x="from:Q", x2="to:Q")]


def _grid(study: Study) -> list[alt.Chart]:
    """The numbers that a coarse dtype has at all, as ticks below the axis."""
    values = [{"at": float(nines(np.array(v)))} for rule in _rules(study) for v in rule.grid()]
    if not values:
        return []
    ticks = alt.Chart(alt.InlineData(values)).mark_rule(strokeDash=[2, 2], color="@grey")
    return [ticks.encode(x="at:Q")]


def _threshold(study: Study, word: Word) -> list[alt.Chart]:
    values = [
        {
            "at": float(nines(np.array(rule.threshold))),
            "name": f"{word('axis.threshold')} {rule.threshold:g}",
        }
        for rule in _rules(study)
    ]
    if not values:
        return []
    base = alt.Chart(alt.InlineData(values)).encode(x="at:Q")
    text = base.mark_text(align="right", dx=-5, dy=8, baseline="top", color="@b")
    return [
        base.mark_rule(color="@b", strokeWidth=2),
        text.encode(text="name:N", y=alt.value(0)),
    ]


VIEWS = (
    View("similarity_a", lambda study: _layers(0, study), _layer_map, keys="layer", by_step=True),
    View("similarity_b", lambda study: _layers(1, study), _layer_map, keys="layer", by_step=True),
    View("histogram", _histogram, _histogram_chart),
)
