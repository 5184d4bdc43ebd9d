"""The results of the bench as a table, as JSON, and against the bars."""

from __future__ import annotations

import json
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from faults.trial import Outcome
from skipstone.outputs import write_whole
from skipstone.version import __version__

BARS = {"cause": 0.97, "step": 1.0, "place": 0.9}
"""Shares that must be right; no control may raise an alarm."""

_BEGIN, _END = "<!-- fault bench -->", "<!-- end of fault bench -->"


def counted(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Faults that acted and that can be known in this mode."""
    return [o for o in outcomes if o.acted and o.right and not o.control]


def controls(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Runs that differ in noise only."""
    return [o for o in outcomes if o.control]


def shares(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """How often cause, step and place are right; of the places only where the cause is."""
    faults = counted(outcomes)
    return {
        "cause": _share(faults, lambda o: o.cause_right),
        "step": _share(faults, lambda o: o.step_right),
        "place": _share(faults, lambda o: o.place_right),
    }


def passed(outcomes: Sequence[Outcome]) -> bool:
    """Whether every bar is reached."""
    reached = shares(outcomes)
    quiet = all(o.cause_right for o in controls(outcomes))
    return quiet and all(reached[name] >= bar for name, bar in BARS.items())


def bars(outcomes: Sequence[Outcome]) -> str:
    """The shares beside their bars, in one line."""
    alarms = sum(not o.cause_right for o in controls(outcomes))
    parts = [f"{n} right {s:.1%} (bar {BARS[n]:.0%})" for n, s in shares(outcomes).items()]
    parts.append(f"false alarms {alarms} of {len(controls(outcomes))} (bar 0)")
    return "; ".join(parts)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """One row for each diagnosis, then what was missed."""
    faults = counted(outcomes)
    lines = [
        "| # | cases | cause right | block and step right | layer and position right "
        "| usual proof | median seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    numbers = sorted({o.right[0] for o in faults})
    lines += [_row(str(n), [o for o in faults if o.right[0] == n]) for n in numbers]
    for mode in sorted({_mode(o) for o in faults}):
        lines.append(_row(f"all, {mode}", [o for o in faults if _mode(o) == mode]))
    lines += ["", f"In all: {bars(outcomes)}.", "", *_missed(outcomes), *_silent(outcomes)]
    return "\n".join(lines)


def _row(name: str, outcomes: Sequence[Outcome]) -> str:
    right = (
        sum(o.cause_right for o in outcomes),
        sum(o.step_right for o in outcomes),
        sum(o.place_right for o in outcomes),
    )
    proofs = Counter(o.proof for o in outcomes if o.proof)
    proof = proofs.most_common(1)[0][0] if proofs else ""
    seconds = statistics.median(o.seconds for o in outcomes)
    cells = [name, str(len(outcomes)), *map(str, right), proof, f"{seconds:.1f}"]
    return f"| {' | '.join(cells)} |"


def _missed(outcomes: Sequence[Outcome]) -> list[str]:
    """What went wrong, one line each."""
    wrong = [o for o in counted(outcomes) if not (o.cause_right and o.step_right and o.place_right)]
    wrong += [o for o in controls(outcomes) if not o.cause_right]
    if not wrong:
        return ["Nothing was missed.", ""]
    lines = Counter(f"- {o.name} ({_mode(o)}): {o.verdict}, {o.where or 'nowhere'}" for o in wrong)
    return ["What was missed:", "", *(_times(line, n) for line, n in lines.items()), ""]


def _silent(outcomes: Sequence[Outcome]) -> list[str]:
    """Faults that changed nothing at some prompt and settings, and those no trace can show."""
    idle = Counter(o.name for o in outcomes if not (o.acted or o.control))
    lines = [_times(f"- {name}", n) for name, n in idle.items()]
    said = ["Faults that changed nothing at some prompt and settings:", "", *lines, ""]
    return said if lines else []


def _mode(outcome: Outcome) -> str:
    if outcome.foreign:
        return "other people's code, " + ("no model" if outcome.alone else "our model at hand")
    return "from its trace" if outcome.alone else "B at hand"


def _times(line: str, number: int) -> str:
    return line if number == 1 else f"{line}, {number} times"


def _share(outcomes: Sequence[Outcome], right: Callable[[Outcome], bool]) -> float:
    return sum(map(right, outcomes)) / len(outcomes) if outcomes else 1.0


def insert(page: Path, table: str) -> None:
    """Put the table between the markers of a page."""
    text = page.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    write_whole(page, f"{before}{_BEGIN}\n{table}\n{_END}{after}")


def read_json(path: Path) -> list[Outcome]:
    """The outcomes of a file that ``write_json`` made."""
    outcomes: list[dict[str, Any]] = json.loads(path.read_text())["outcomes"]
    return [Outcome(**(fields | {"right": tuple(fields["right"])})) for fields in outcomes]


def write_json(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Everything, for whoever wants to count otherwise."""
    value = {
        "versions": {"skipstone": __version__, "torch": torch.__version__},
        "machine": platform.machine(),
        "shares": shares(outcomes),
        "bars": BARS,
        "false_alarms": sum(not o.cause_right for o in controls(outcomes)),
        "controls": len(controls(outcomes)),
    }
    # A line for each outcome: small, and still readable.
    lines = ",\n".join(json.dumps(asdict(o)) for o in outcomes)
    write_whole(path, f'{json.dumps(value)[:-1]}, "outcomes": [\n{lines}\n]}}\n')
