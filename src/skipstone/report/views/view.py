"""What a view is: a table, and a chart over it that follows the page's cursor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import altair as alt

from skipstone.report.study import Study
from skipstone.report.table import Table, Word

# The palette of Okabe and Ito: told apart by every kind of colour vision.
BLUE, VERMILION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8c8c8c"

ROWS = alt.NamedData("rows")
"""Stands for the rows of the view's table."""

Chart = alt.Chart | alt.LayerChart


@dataclass(frozen=True)
class View:
    """One chart of the report.

    Its title, description and the reason why it may be empty are words named after it.
    """

    name: str
    rows: Callable[[Study], Table]
    chart: Callable[[Study, Word], Chart]
    keys: str = ""
    """What the up and down arrows move in this chart: ``step`` or ``layer``; left and right move
    the position. Empty if the cursor does not move here."""
    by_step: bool = False
    """Whether the chart shows the rows of the cursor's step only."""

    def spec(self, study: Study, word: Word) -> dict[str, object]:
        """The chart as Vega-Lite, without its rows, as wide as its place."""
        fit = alt.AutoSizeParams(type="fit-x", contains="padding")
        chart = self.chart(study, word).properties(width="container", data=ROWS, autosize=fit)
        return chart.add_params(*cursor(study)).to_dict()

    def draw(
        self, study: Study, word: Word, *, step: int = 0, position: int = -1, width: int = 640
    ) -> Chart:
        """The chart with its rows, for a notebook."""
        rows = self.rows(study).rows(word, step if self.by_step else 0)
        chart = self.chart(study, word).properties(width=width, datasets={"rows": rows}, data=ROWS)
        return chart.add_params(*cursor(study, step, position))


def cursor(study: Study, step: int | None = None, position: int = -1) -> list[alt.Parameter]:
    """Where the reader is; the page sets them."""
    first = study.first or 0
    values = {"step": first if step is None else step, "layer": -1, "position": position}
    return [alt.param(name=f"cursor_{name}", value=value) for name, value in values.items()]


def step_names(study: Study) -> list[str]:
    """Block and step, as the page and the command line write them."""
    return [f"{pair.steps[0].block}.{pair.steps[0].step}" for pair in study.steps]


def step_axis(study: Study, word: Word, field: str = "step") -> alt.Y:
    """Steps of the pair from top to bottom, named by block and step."""
    labels = step_names(study)
    return alt.Y(
        f"{field}:Q",
        title=word("axis.step"),
        scale=alt.Scale(domain=[-0.5, len(labels) - 0.5], reverse=True, nice=False, zero=False),
        axis=alt.Axis(labelExpr=f"{labels}[datum.value]", tickMinStep=1, grid=False),
    )


def position_axis(
    study: Study, word: Word, field: str = "position", *, prompt: bool = False
) -> alt.X:
    """Positions from left to right: the new ones, or the prompt as well."""
    start = 0 if prompt else study.prompt_length
    return alt.X(
        f"{field}:Q",
        title=word("axis.position"),
        scale=alt.Scale(domain=[start - 0.5, study.length - 0.5], nice=False, zero=False),
        axis=alt.Axis(tickMinStep=1, grid=False, format="d"),
    )


def layer_axis(layers: int, word: Word, field: str = "layer") -> alt.Y:
    """Layers from bottom to top."""
    return alt.Y(
        f"{field}:Q",
        title=word("axis.layer"),
        scale=alt.Scale(domain=[-0.5, layers + 0.5], nice=False, zero=False),
        axis=alt.Axis(tickMinStep=1, grid=False, format="d"),
    )


def cross(x: str | None, y: str | None) -> list[alt.Chart]:
    """Thin lines through the cursor."""
    rule = alt.Chart(alt.InlineData([{}])).mark_rule(strokeWidth=1, opacity=0.75, clip=True)
    found = list[alt.Chart]()
    if x is not None:
        found.append(rule.encode(x=alt.XDatum(alt.ExprRef(f"cursor_{x}"), type="quantitative")))
    if y is not None:
        found.append(rule.encode(y=alt.YDatum(alt.ExprRef(f"cursor_{y}"), type="quantitative")))
    return found


def layered(*charts: alt.Chart) -> alt.LayerChart:
    """Charts on top of each other, the last one in front."""
    return alt.LayerChart(layer=list(charts))


def sides(study: Study) -> alt.Scale:
    """The colours of the two runs, wherever they stand together."""
    return alt.Scale(domain=list(study.letters), range=[BLUE, VERMILION])


def shapes(study: Study) -> alt.Scale:
    """Their shapes, so that nothing is told by colour alone."""
    return alt.Scale(domain=list(study.letters), range=["circle", "triangle-up"])


def tips(word: Word, *fields: str) -> list[alt.Tooltip]:
    """What a pointer reads off a mark; ``:Q`` after a field asks for four digits."""
    found = list[alt.Tooltip]()
    for field in fields:
        name, _, kind = field.partition(":")
        tip = alt.Tooltip(f"{name}:{kind or 'N'}", title=word(f"column.{name}"))
        found.append(tip.format(".6~g") if kind == "Q" else tip)
    return found
