"""The table as one HTML file that needs nothing else: what is saved against what is right."""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from skipstone.leaderboard.board import Leaderboard, Line
from skipstone.leaderboard.columns import MOST_BROKEN, cells, headings
from skipstone.models.load import Model
from skipstone.quoting import whole_characters
from skipstone.report.theme import style_sheet
from skipstone.sweep.grid import BASELINE, spell
from skipstone.sweep.measure import Measurement
from skipstone.sweep.run import Sweep, whereabouts

_MOST_TEXT = 600
_WIDTH, _HEIGHT = 800, 320
_STEP = 7

_COSTS: Mapping[str, tuple[str, Callable[[Line], float]]] = {
    "forwards": ("forwards of an answer", lambda line: line.summary.forwards),
    "flops": ("operations, share of the exact run's", lambda line: line.flops),
    "seconds": ("seconds of an answer", lambda line: line.summary.seconds),
}


def render(found: Leaderboard, sweep: Sweep, about: str, model: Model) -> str:
    """The whole page; every text in it is escaped.

    Args:
        found: the table.
        sweep: whose answers it is made of.
        about: what was run, on what: one paragraph.
        model: what decoded, for the commands that write reports.
    """
    exact = {m.prompt: m for m in sweep.measurements if m.setting == BASELINE}
    broken, cards = list[dict[str, str]](), dict[tuple[str, str], dict[str, str]]()
    for line in found.lines:
        if line.changed and len(broken) < MOST_BROKEN:
            card = {"id": f"broke-{len(broken)}", **_broken(line, sweep, exact, model)}
            cards[line.family, line.summary.setting] = card
            broken.append(card)
    script = _file("board.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(_file("board.html")).render(
        about=about,
        on_gpu=found.gpu.about if found.gpu else "",
        policy=_policy(script),
        style=Markup(style_sheet() + _file("board.css")),
        script=Markup(script),
        costs={key: name for key, (name, _) in _COSTS.items()},
        kinds=sorted({line.entry.kind for line in found.lines} - {"exact"}),
        charts=[
            _chart(number, family, found, cards) for number, family in enumerate(found.families)
        ],
        headings=headings(found),
        broken=broken,
        changed=sum(len(line.changed) for line in found.of(found.families[0])),
        most=MOST_BROKEN,
        reports=reports_said(found, sweep),
        raised=found.raised,
        left_out=found.protocol.left_out,
        width=_WIDTH,
        height=_HEIGHT,
    )


def reports_said(found: Leaderboard, sweep: Sweep) -> str:
    """How many settings and families that changed an answer have a report; empty if all have."""
    families = found.families[1:] or found.families
    lines = [line for name in families for line in found.of(name)]
    broke = [line for line in lines if not all(m.raised for m in line.changed)]
    drawn = [line for line in broke if any(_report(m, sweep) for m in line.changed)]
    if len(drawn) == len(broke):
        return ""
    return (
        f"{len(drawn)} of {len(broke)} settings and families that changed an answer have a report; "
        f"for the others there is the command that writes it"
    )


def _chart(
    number: int,
    family: str,
    found: Leaderboard,
    cards: Mapping[tuple[str, str], Mapping[str, str]],
) -> dict[str, object]:
    """One family: its points, the front for each cost, and its table."""
    lines = found.of(family)
    known = all(line.right is not None for line in lines)
    scales = {key: _scale([of(line) for line in lines]) for key, (_, of) in _COSTS.items()}
    points, rows, free = list[dict[str, object]](), list[dict[str, object]](), _Places()
    for i, line in enumerate(lines):
        row, card = f"row-{number}-{i}", cards.get((family, line.summary.setting), {})
        kind, texts, report = line.entry.kind, cells(line, found), card.get("report", "")
        rows.append({"id": row, "kind": kind, "cells": texts, "broke": card.get("id", "")})
        label = f"{texts[0]}: right {texts[1]}, changed {texts[3]}, {texts[5]} forwards"
        share, low, high = _quality(line, known=known)
        places = [
            f"--{key}: {free.beside(key, scales[key](of(line)), share):.1f}px"
            for key, (_, of) in _COSTS.items()
        ]
        points.append(
            {
                "link": report or f"#{card.get('id', row)}",
                "kind": kind,
                "published": line.entry.published,
                "label": f"{label}; report of an answer that changed" if report else label,
                "place": "; ".join([*places, f"--y: {_HEIGHT * (1 - share):.1f}px"]),
                "low": round(_HEIGHT * (share - low), 1),
                "high": round(_HEIGHT * (share - high), 1),
            }
        )
    return {
        "id": f"family-{number}",
        "family": family,
        "measure": "Right answers" if known else "Answers that are the exact run's",
        "points": points,
        "rows": rows,
        "ticks": {key: list(_ticks(lines, of, scales[key])) for key, (_, of) in _COSTS.items()},
        "fronts": {
            key: " ".join(_front(lines, of, scales[key], known=known))
            for key, (_, of) in _COSTS.items()
        },
    }


class _Places:
    """Points that would hide each other stand side by side, so that each can be clicked."""

    def __init__(self) -> None:
        self._taken = Counter[tuple[str, int, int]]()

    def beside(self, cost: str, x: float, share: float) -> float:
        """The place of a point to the right of those that have its own, in px."""
        spot = cost, round(x / _STEP), round(_HEIGHT * share / _STEP)
        self._taken[spot] += 1
        return x + _STEP * (self._taken[spot] - 1)


def _quality(line: Line, *, known: bool) -> tuple[float, float, float]:
    """What is drawn upwards, and its interval."""
    found = line.right if known and line.right is not None else line.summary.same_answers
    return found.value, found.low, found.high


def _scale(values: Sequence[float]) -> Callable[[float], float]:
    """From a cost to a place on the logarithmic axis; nothing takes no cost at all."""
    least, most = (math.log(max(end(values), 1e-9)) for end in (min, max))
    return partial(_placed, least=least, spread=(most - least) or 1.0)


def _placed(value: float, *, least: float, spread: float) -> float:
    return _WIDTH * (math.log(max(value, 1e-9)) - least) / spread


def _ticks(
    lines: Sequence[Line], of: Callable[[Line], float], scale: Callable[[float], float]
) -> Iterator[tuple[float, str]]:
    """Round numbers within the axis, and where they are."""
    costs = [max(of(line), 1e-9) for line in lines]
    for power in range(math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs))) + 1):
        for digit in (1, 2, 5):
            value = digit * 10.0**power
            if min(costs) <= value <= max(costs):
                yield round(scale(value), 1), f"{value:g}"


def _front(
    lines: Sequence[Line],
    of: Callable[[Line], float],
    scale: Callable[[float], float],
    *,
    known: bool,
) -> Iterator[str]:
    """Places of the settings that no other one beats in both, cheapest first."""
    best = -1.0
    for line in sorted(lines, key=lambda line: (of(line), -_quality(line, known=known)[0])):
        share = _quality(line, known=known)[0]
        if share > best:
            best = share
            yield f"{scale(of(line)):.1f},{_HEIGHT * (1 - share):.1f}"


def _broken(
    line: Line, sweep: Sweep, exact: Mapping[int, Measurement], model: Model
) -> dict[str, str]:
    """One answer that a setting changed: one with a report, and one that came out wrong, if any."""
    m = min(line.changed, key=lambda m: _rank(m, sweep))
    prompt = sweep.questions[m.prompt].prompt
    specs = spell(sweep.baseline), line.entry.setting.spec
    where = f"block {m.block}, step {m.step}, new token {m.position} ({m.kind})" if m.kind else "-"
    return {
        "kind": line.entry.kind,
        "family": line.family,
        "setting": line.summary.setting,
        "prompt": _cut(prompt),
        "exact": _cut(exact[m.prompt].text),
        "text": _cut(m.text),
        "where": where,
        "cause": m.cause,
        "proof": m.proof,
        "evidence": _cut(m.evidence),
        "report": _report(m, sweep),
        "command": _command(model, *specs, prompt),
    }


def _rank(m: Measurement, sweep: Sweep) -> tuple[bool, bool, bool, int]:
    return not _report(m, sweep), m.raised, m.right is not False, m.prompt


def _report(m: Measurement, sweep: Sweep) -> str:
    """The link to its page; empty if there is none."""
    return sweep.reports.get((m.prompt, m.setting), "")


def _command(model: Model, spec_a: str, spec_b: str, prompt: str) -> str:
    """The command that decodes both runs again and writes the report of what parts them."""
    network = model.network
    dtype = str(network.dtype).removeprefix("torch.")
    run = ["--model", whereabouts(model), "--device", network.device.type, "--dtype", dtype]
    asked = [*run, "--a", spec_a, "--b", spec_b, "--report", "report.html"]
    return whole_characters(shlex.join(["skipstone", "compare", *asked, "--", prompt]))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]} ..."


def _policy(script: str) -> str:
    """What the page may do: run this script, and nothing from anywhere."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        f"img-src data:; base-uri 'none'; form-action 'none'"
    )


def _file(name: str) -> str:
    return files("skipstone.leaderboard").joinpath("page", name).read_text("utf-8")
