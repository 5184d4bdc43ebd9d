"""Scores: a line for every trial, and the shares that the bars are about."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from faults.published.trial import Outcome
from skipstone.outputs import write_whole

_MISSED_BY_ONE_WRONG = 3
"""A wrong claim costs its reader hours; silence costs nothing."""

_SUMMARY = (
    "code",
    "asked with",
    "trials",
    "cause first",
    "inconclusive",
    "wrong cause",
    "weighted",
    "block and step",
    "layer and position",
)
_SCORES = (
    "fault",
    "code",
    "job",
    "expected",
    "asked with",
    "verdict",
    "said first",
    "proof",
    "where",
    "truth",
    "step",
    "place",
)


def line(outcome: Outcome) -> str:
    """One trial for whoever waits."""
    o = outcome
    said = f"{o.said} [{o.proof}] {o.where}" if o.proof else o.said
    truth = f"{' or '.join(o.causes)}, {o.truth}"
    return f"{o.verdict}: {o.base}, {o.fault} ({o.job}; {_mode(o.model)}): {said}; truth: {truth}"


def shares(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Shares of the faults that act; steps and places of all causes that were named.

    NaN where there are none.
    """
    counted = [o for o in outcomes if o.counts]
    named = [o for o in counted if o.verdict != "inconclusive"]
    wrong = sum(o.verdict == "WRONG" for o in counted)
    number, missed = len(counted) or math.nan, len(counted) - len(named)
    return {
        "cause": (len(named) - wrong) / number,
        "inconclusive": missed / number,
        "wrong": wrong / number,
        "weighted": 1 - (missed + _MISSED_BY_ONE_WRONG * wrong) / number,
        "step": sum(o.step_right for o in named) / (len(named) or math.nan),
        "place": sum(o.place_right for o in named) / (len(named) or math.nan),
    }


def summary(outcomes: Sequence[Outcome]) -> str:
    """The shares of each code base and of all, from traces and with a model."""
    rows = _head(_SUMMARY)
    for base in [*dict.fromkeys(o.base for o in outcomes), "all"]:
        for model in (False, True):
            some = [o for o in outcomes if base in ("all", o.base) and o.model == model]
            counted = sum(o.counts for o in some)
            if counted:
                cells = [base, _mode(model), str(counted)]
                rows.append(_row([*cells, *map(_percent, shares(some).values())]))
    faults = len({o.fault for o in outcomes if o.counts})
    said = f"{faults} different faults act, each in one to five code bases, at one or two jobs."
    return "\n".join([*rows, "", said, *_idle(outcomes)])


def _percent(share: float) -> str:
    return "none named" if math.isnan(share) else f"{share:.0%}"


def _idle(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Faults that changed nothing, which says nothing about the diagnosis."""
    for verdict in ("does not act", "broke"):
        names = dict.fromkeys(f"{o.fault} ({o.base})" for o in outcomes if o.verdict == verdict)
        if names:
            yield f"{verdict.capitalize()} at some job: {', '.join(names)}."


def scores(outcomes: Sequence[Outcome], commit: str) -> str:
    """A line for every trial."""
    rows = [f"At {commit}.", "", summary(outcomes), "", *_head(_SCORES)]
    for o in outcomes:
        cells = [o.fault, o.base, o.job, " or ".join(o.causes), _mode(o.model), o.verdict]
        marks = [_mark(o.step_right), _mark(o.place_right)] if o.proof else ["", ""]
        rows.append(_row([*cells, o.said, o.proof, o.where, o.truth, *marks]))
    return "\n".join(rows) + "\n"


def _head(names: Sequence[str]) -> list[str]:
    return [_row(names), _row(["---"] * len(names))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _mark(right: bool) -> str:
    return "ok" if right else "no"


def _mode(model: bool) -> str:
    return "a model" if model else "traces"


def insert(page: Path, outcomes: Sequence[Outcome], bench: str) -> None:
    """Put the shares between the markers that a page has for a bench."""
    begin, end = f"<!-- {bench} bench -->", f"<!-- end of {bench} bench -->"
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    write_whole(page, f"{before}{begin}\n{summary(outcomes)}\n{end}{after}")


def write_json(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Everything, for whoever wants to count otherwise."""
    lines = ",\n".join(json.dumps(asdict(o)) for o in outcomes)
    write_whole(path, f'{{"outcomes": [\n{lines}\n]}}\n')
