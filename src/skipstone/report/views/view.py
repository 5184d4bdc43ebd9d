"""What a view is: a table, and a chart over it that follows the page's cursor."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import altair as alt

from skipstone.record import StepRecord
from skipstone.report.runs import Study
from skipstone.report.table import Table, Word

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
    blanks: Callable[[Study], list[dict[str, int]]] | None = None
    """Of each step, how many cells stay blank, by the word that says why."""

    def spec(self, study: Study, word: Word) -> dict[str, object]:
        """The chart as Vega-Lite, without its rows, as wide as its place."""
        fit = alt.AutoSizeParams(type="fit-x", contains="padding")
        chart = self.chart(study, word).properties(width="container", data=ROWS, autosize=fit)
        return chart.add_params(*cursor(study)).to_dict()

    def draw(
        self, study: Study, word: Word, *, step: int = 0, position: int = -1, width: int = 640
    ) -> dict[str, object]:
        """The chart as Vega-Lite with its rows, for a notebook."""
        rows = self.rows(study).rows(word, step if self.by_step else 0)
        chart = self.chart(study, word).properties(width=width, datasets={"rows": rows}, data=ROWS)
        return chart.add_params(*cursor(study, step, position)).to_dict()


def cursor(study: Study, step: int | None = None, position: int = -1) -> list[alt.Parameter]:
    """Where the reader is; the page sets them."""
    first = study.first or 0
    values = {"step": first if step is None else step, "layer": -1, "position": position}
    return [alt.param(name=f"cursor_{name}", value=value) for name, value in values.items()]


def step_name(step: StepRecord) -> str:
    """Block and step, short and not to be taken for a decimal: ``b0 s10`` is after ``b0 s9``."""
    return f"b{step.block} s{step.step}"


def step_axis(study: Study, word: Word, field: str = "step") -> alt.Y:
    """Steps of the pair from top to bottom."""
    return alt.Y(
        f"{field}:Q",
        title=word("axis.step"),
        scale=alt.Scale(
            domain=[-0.5, len(study.steps) - 0.5], reverse=True, nice=False, zero=False
        ),
        axis=_step_ticks(study, overlap=False),
    )


def step_axis_x(study: Study, word: Word) -> alt.X:
    """Steps of the pair from left to right."""
    return alt.X(
        "step:Q",
        title=word("axis.step"),
        scale=alt.Scale(domain=[-0.5, len(study.steps) - 0.5], nice=False, zero=False),
        axis=_step_ticks(study, overlap=True),
    )


def _step_ticks(study: Study, *, overlap: bool) -> alt.Axis:
    """Named ticks at the start of blocks, and at round steps within them if there is room."""
    steps = [pair.steps[0] for pair in study.steps]
    starts = [i for i, step in enumerate(steps) if i == 0 or step.block != steps[i - 1].block]
    values = starts[:: 1 + len(starts) // _MOST_TICKS]
    for stride in _STRIDES:
        within = [i for i in range(len(steps)) if _stands(steps, i, stride)]
        if len(within) <= _MOST_TICKS:
            values = within
            break
    names = {i: step_name(steps[i]) for i in values}
    expression = f"{json.dumps(names)}[datum.value]"
    return alt.Axis(
        values=values,
        tickCount=len(values),
        labelExpr=expression,
        labelOverlap=overlap,
        grid=False,
    )


def _stands(steps: Sequence[StepRecord], i: int, stride: int) -> bool:
    """Whether there is a tick: at a round step that is not too near before the next block."""
    after = steps[i + 1 : i + 1 + stride // 2]
    return steps[i].step % stride == 0 and all(s.block == steps[i].block for s in after)


_STRIDES = (1, 2, 5, 10, 20, 50, 100)
_MOST_TICKS = 12


def block_bounds(study: Study) -> list[alt.Chart]:
    """A line before the first step of every block but the first, in charts with steps downwards."""
    steps = [pair.steps[0] for pair in study.steps]
    starts = [i for i in range(1, len(steps)) if steps[i].block != steps[i - 1].block]
    if not starts:
        return []
    data = alt.InlineData([{"start": i - 0.5} for i in starts])
    line = alt.Chart(data).mark_rule(color="@grey", strokeDash=[2, 4], strokeWidth=1)
    return [line.encode(y="start:Q")]


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
    return alt.Scale(domain=list(study.letters), range=["@a", "@b"])


def shapes(study: Study) -> alt.Scale:
    """Their shapes, so that nothing depends on colour alone."""
    return alt.Scale(domain=list(study.letters), range=["circle", "triangle-up"])


def tips(word: Word, *fields: str) -> list[alt.Tooltip]:
    """What a pointer reads off a mark; ``:Q`` after a field asks for four digits."""
    found = list[alt.Tooltip]()
    for field in fields:
        name, _, kind = field.partition(":")
        tip = alt.Tooltip(f"{name}:{kind or 'N'}", title=word(f"column.{name}"))
        found.append(tip.format(".6~g") if kind == "Q" else tip)
    return found
