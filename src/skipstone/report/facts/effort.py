"""Work and time of both runs, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skipstone.record import Header, RunRecord, StepRecord
from skipstone.report.runs import Study
from skipstone.report.words import Phrase, Say, say

# Of a usual transformer, in width^2: four projections of one each, and an MLP.
_ATTENTION_WEIGHTS, _MLP_WEIGHTS = 4, 8


@dataclass(frozen=True)
class Fact:
    """One line of a table that sets two runs side by side."""

    name: Say
    a: Phrase
    b: Phrase


@dataclass(frozen=True)
class Effort:
    """What one run computed."""

    forwards: int
    refreshes: int
    recoveries: int
    rows: int
    """Rows that entered layer 1, over all forwards."""
    skipped: int
    """How many of them left before the deep layers."""
    row_layers: int
    """Rows times layers that were computed, with or without the MLP."""
    most_row_layers: int
    """The same if every forward had computed every row in every layer."""
    flops: float
    """Estimate; see ``flops_of``."""
    seconds: float

    @classmethod
    def of(cls, record: RunRecord) -> Effort:
        """Add up the steps of a run."""
        layers = record.header.num_layers
        steps = record.steps
        return cls(
            forwards=len(steps),
            refreshes=sum(step.refresh for step in steps),
            recoveries=sum(step.recovery for step in steps),
            rows=sum(step.rows.size for step in steps),
            skipped=sum(len(step.skipped) for step in steps),
            row_layers=sum(_row_layers(step, layers) for step in steps),
            most_row_layers=len(steps) * layers * record.length,
            flops=sum(flops_of(step, record.header) for step in steps),
            seconds=sum(step.seconds for step in steps),
        )


def flops_of(step: StepRecord, header: Header) -> float:
    """About how many operations a forward took.

    Two for each weight of a row and layer (4 width^2 weights of attention and 8 of the MLP are
    assumed, as records do not say more), attention of each row to the whole canvas, and the logits
    of the masked rows.
    """
    width, length = header.width, step.entered_age.size
    attention = 2 * _ATTENTION_WEIGHTS * width**2 + 4 * width * length
    attended = _row_layers(step, header.num_layers)
    mlps = attended if step.mlp_rows is None else int(step.mlp_rows.sum())
    head = 2 * width * header.vocab_size
    scored = int(np.count_nonzero(step.candidates.age == 0))
    layers = attended * attention + mlps * 2 * _MLP_WEIGHTS * width**2
    return float(layers + scored * head)


def _row_layers(step: StepRecord, layers: int) -> int:
    if step.layer_rows is not None:
        return int(step.layer_rows.sum())
    left = step.left_before[step.left_before > 0]
    return step.finished.size * layers + int((left - 1).sum())


def efforts(study: Study) -> list[Fact]:
    """The table of work and time."""
    a, b = (Effort.of(run.record) for run in study.pair)
    return [
        Fact(say(f"effort.{name}"), *(text(side) for side in (a, b)))
        for name, text in _TEXTS.items()
    ]


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _power(number: float) -> str:
    """A large number as a mantissa and a power of ten."""
    mantissa, exponent = f"{number:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_RAISED)}"


_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_TEXTS: dict[str, Callable[[Effort], str]] = {
    "forwards": lambda e: f"{e.forwards}",
    "refreshes": lambda e: f"{e.refreshes}",
    "recoveries": lambda e: f"{e.recoveries}",
    "rows": lambda e: f"{e.rows:,}",
    "skipped": lambda e: f"{e.skipped:,} ({_share(e.skipped, e.rows)})",
    "row_layers": lambda e: f"{e.row_layers:,} ({_share(e.row_layers, e.most_row_layers)})",
    "flops": lambda e: f"≈ {_power(e.flops)}",
    "seconds": lambda e: f"{e.seconds:.3f} s",
    "per_forward": lambda e: f"{1000 * e.seconds / max(e.forwards, 1):.2f} ms",
}
