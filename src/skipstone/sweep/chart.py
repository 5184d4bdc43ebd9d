"""The Pareto chart of a sweep: how much faster, against how often the answer differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skipstone.extras import missing
from skipstone.sweep.summary import Recommendation, Summary

if TYPE_CHECKING:
    import altair as alt

ChartRow = dict[str, object]

# Okabe and Ito: distinguishable with any kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke")


def check_charts() -> None:
    """Refuse to start what could not be drawn.

    Raises:
        ConfigError: Altair or vl-convert is not installed.
    """
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise missing(str(error.name), "the chart of a sweep", "sweep") from None


def grid_keys(summaries: Sequence[Summary]) -> list[str]:
    """The keys of the grid, from the names of its settings; ``skip=none`` has fewer."""
    names = [summary.setting.split() for summary in summaries]
    return [pair.partition("=")[0] for pair in max(names, key=len)]


def front(summaries: Sequence[Summary]) -> list[Summary]:
    """The settings that no other one beats in both, speed and agreement; slowest first."""
    chosen = list[Summary]()
    for s in sorted(summaries, key=lambda s: (-s.speedup.value, s.disagreement.value)):
        if not chosen or s.disagreement.value < chosen[-1].disagreement.value:
            chosen.append(s)
    return chosen[::-1]


def pareto_chart(summaries: Sequence[Summary], found: Recommendation) -> alt.TopLevelMixin:
    """The chart; the baseline is the first summary.

    Colour and shape stand for the last two keys of the grid.
    """
    import altair as alt

    best = {s.setting for s in front(summaries)}
    rows = [_row(s, on_front=s.setting in best) for s in summaries]
    keys = grid_keys(summaries)
    colour, shape = keys[-1], keys[-2:][0]
    for row in rows:  # the baseline, and skip=none, have fewer keys
        row.setdefault(colour, "-")
        row.setdefault(shape, "-")
    colours, shapes = _marks(rows, colour, _COLOURS), _marks(rows, shape, _SHAPES)
    base = alt.Chart(alt.Data(values=rows))
    x = alt.X("faster:Q", title="times as fast as the baseline").scale(
        type="log", padding=12, nice=False
    )
    y = alt.Y("differ:Q", title="prompts that differ from the baseline").axis(format="%")
    points = base.mark_point(filled=True, size=70).encode(
        x=x,
        y=y,
        color=alt.Color(f"{colour}:N", title=colour).scale(
            domain=list(colours), range=list(colours.values())
        ),
        shape=alt.Shape(f"{shape}:N", title=shape).scale(
            domain=list(shapes), range=list(shapes.values())
        ),
        opacity=alt.condition("datum.front", alt.value(1.0), alt.value(0.45)),
        tooltip=["setting:N", "faster:Q", "differ:Q", "low:Q", "high:Q", "right:Q", "forwards:Q"],
    )
    spread = base.mark_rule(opacity=0.15).encode(x=x, y="low:Q", y2="high:Q")
    line = (
        base.mark_line(color="#777777", strokeDash=[4, 3])
        .transform_filter("datum.front")
        .encode(x=x, y=y, order="faster:Q")
    )
    bound = alt.Chart(alt.Data(values=[{"bound": found.bound}]))
    limit = bound.mark_rule(color="#999999", strokeDash=[1, 3]).encode(y="bound:Q")
    layers = alt.layer(spread, line, limit, points)
    return layers.properties(width=620, height=380, title=_title(found))


def _title(found: Recommendation) -> alt.TitleParams:
    import altair as alt

    chosen = found.setting or f"none is proven faster and below {found.bound:.3g}"
    return alt.TitleParams(
        "Speed against disagreement",
        subtitle=[
            f"recommended: {chosen}",
            "dashed: no other setting beats these in both; dotted: the bound; bars: 95 % intervals",
        ],
        anchor="start",
    )


def save_html(chart: alt.TopLevelMixin, path: Path) -> None:
    """Write one page that opens offline: the drawing library is in it."""
    chart.save(str(path), format="html", inline=True, embed_options={"actions": False})


def save_png(chart: alt.TopLevelMixin, path: Path) -> None:
    """Write an image at twice the size of the page."""
    chart.save(str(path), format="png", scale_factor=2)


def _marks(rows: Sequence[ChartRow], key: str, marks: Sequence[str]) -> dict[str, str]:
    """A mark for each value of a key."""
    values = dict.fromkeys(str(row[key]) for row in rows)
    return {value: marks[i % len(marks)] for i, value in enumerate(values)}


def _row(s: Summary, *, on_front: bool) -> ChartRow:
    pairs = dict(pair.split("=", 1) for pair in s.setting.split() if "=" in pair)
    return {
        "setting": s.setting,
        "front": on_front,
        "faster": round(s.speedup.value, 3),
        "differ": s.disagreement.value,
        "low": s.disagreement.low,
        "high": s.disagreement.high,
        "right": s.right,
        "forwards": round(s.forwards, 1),
        **pairs,
    }
