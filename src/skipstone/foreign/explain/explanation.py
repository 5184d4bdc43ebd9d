"""What ``explain`` gives back: the cause, where it is, what it rests on, and what it took."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diff import Comparison
from skipstone.foreign.explain.evidence import Cost, Observation
from skipstone.outputs import whole_folder
from skipstone.record import Event, Trace
from skipstone.record.copied import write_trace
from skipstone.sentence import counted

_LINES = 10
# What of a diagnosis gives way first where there is no room.
_GIVES_WAY = ("also:", "note:", "ruled out:", "not tried:")
# Which events show the cause that a rule names.
_SHOWN_BY = {
    "budget-exhausted": ("masks_left",),
    "inactive-feature": ("stated_differs",),
    "leftover-state": ("cache_overwritten",),
    "low-precision-similarity": ("low_precision_similarity",),
    "misaligned-rows": ("misaligned_rows",),
    "other-inputs": ("ids_behind",),
    "position-encoding": ("positions_disagree",),
    "wrong-cache-row": ("positions_disagree",),
}
# What is said of a run besides its cause, the most useful first.
_TELLING = (
    "misaligned_rows",
    "positions_disagree",
    "ids_behind",
    "stated_differs",
    "cache_overwritten",
    "prompt_overwritten",
    "masks_left",
    "low_precision_similarity",
    "partial_logits_compare",
    "partial_logits_kept",
    "rows_not_located",
    "not_recorded",
    "attention_not_recorded",
    "recording_failed",
    "measuring_cost",
    "skip_cannot_pay",
)
_TOLD = 4


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Why a bad run parts from a good one; ``print`` tells it in ten lines.

    Attributes: ``diagnosis``, ``comparison``, ``good``, ``bad``, ``events``, ``line``, ``notes``.
    """

    diagnosis: Diagnosis
    comparison: Comparison | None
    """None if the runs do not even have the same prompt."""
    good: Trace
    bad: Trace
    sample: int
    """Which prompt of the batch is spoken of."""
    notes: tuple[str, ...]
    """What is odd about the way the runs went: they differ from themselves, or change something."""
    sides: tuple[Observation, Observation]
    seconds: float
    """That everything took."""

    @property
    def events(self) -> tuple[Event, ...]:
        """What was seen in passing, of the bad run first; each place once."""
        found = (*self.bad.records[self.sample].events, *self.good.records[self.sample].events)
        return tuple({(e.kind, e.source, e.message): e for e in reversed(found)}.values())[::-1]

    @property
    def line(self) -> str:
        """``file.py:123``: where the cause shows, or else where the model is called."""
        shown = self._shown()
        return self.sides[1].source if shown is None else shown.source

    @property
    def verdict(self) -> str:
        """As in ``diagnosis.verdict``."""
        return self.diagnosis.verdict

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        return f"<Explanation {self.verdict}: {self.diagnosis.summary!r}>"

    def lines(self) -> list[str]:
        """At most ten lines for a terminal."""
        told = self.diagnosis.lines()
        after = [line for line in told if line.startswith("next:")]
        spare = [line for line in told if line.startswith(_GIVES_WAY)]
        kept = [line for line in told if line not in after and line not in spare]
        errors = self._errors()
        if errors and self.sides[1].error and self.diagnosis.cause is None:
            why = "cause: bad raised an error, and nothing else needs to explain it"
            kept = [why if line.startswith("cause: ") else line for line in kept]
        own = [*errors, *self._line(), *self._seen(), *self._notes()]
        after.append(self._cost())
        room = max(0, _LINES - len(kept) - len(own) - len(after))
        return [*kept, *own, *spare[:room], *after][:_LINES]

    def _repr_html_(self) -> str:
        """The same as a table, for a notebook."""
        head, *rest = self.lines()
        pairs = (line.partition(": ") for line in rest)
        cells = "".join(
            f'<tr><th style="text-align:left">{escape(name)}</th>'
            f'<td style="text-align:left">{escape(said)}</td></tr>'
            for name, _, said in pairs
        )
        return f'<pre style="white-space:pre-wrap">{escape(head)}</pre><table>{cells}</table>'

    def as_json(self) -> dict[str, object]:
        """Plain data: the diagnosis, and what else was found."""
        good, bad = self.sides
        return {
            "diagnosis": self.diagnosis.as_json(),
            "comparison": None if self.comparison is None else self.comparison.as_json(),
            "line": self.line,
            "errors": {"good": good.error, "bad": bad.error},
            "notes": list(self.notes),
            "events": [asdict(event) for event in self.events],
            "cost": {
                name: None if side.cost is None else asdict(side.cost)
                for name, side in (("good", good), ("bad", bad))
            },
            "seconds": self.seconds,
        }

    def save(self, path: str | Path) -> None:
        """Write a new folder: ``good.trace``, ``bad.trace``, ``explanation.txt`` and ``.json``.

        Both traces can be given to ``explain`` again, and to every command that reads traces.

        Raises:
            OutputError: something is at ``path`` already, or it cannot be written.
        """
        with whole_folder(Path(path)) as folder:
            write_trace(self.good, folder / "good.trace")
            write_trace(self.bad, folder / "bad.trace")
            (folder / "explanation.txt").write_text(f"{self}\n", encoding="utf-8")
            text = json.dumps(_finite(self.as_json()), indent=2, ensure_ascii=False)
            (folder / "explanation.json").write_text(f"{text}\n", encoding="utf-8")

    def _shown(self) -> Event | None:
        """The event that shows the cause; None if none does."""
        kinds = _SHOWN_BY.get(self.verdict, ())
        return next((e for e in self.events if e.kind in kinds and e.source), None)

    def _errors(self) -> list[str]:
        """What the runs raised."""
        return [
            f"raised: {name} after {counted(len(trace.records[self.sample].steps), 'step')}: "
            f"{side.error}"
            for name, trace, side in zip(
                ("good", "bad"), (self.good, self.bad), self.sides, strict=True
            )
            if side.error
        ]

    def _line(self) -> list[str]:
        if not self.line:
            return []
        what = "calls the model" if self._shown() is None else "shows it"
        return [f"line: {self.line} ({what})"]

    def _seen(self) -> list[str]:
        """Other findings, each with its line."""
        shown = self._shown()
        found = [e for e in self.events if e.kind in _TELLING and e is not shown]
        found.sort(key=lambda e: _TELLING.index(e.kind))
        words = list(dict.fromkeys(f"{e.kind} {e.source}".rstrip() for e in found))
        more = f" and {len(words) - _TOLD} more" if len(words) > _TOLD else ""
        return [f"seen: {'; '.join(words[:_TOLD])}{more}"] if words else []

    def _notes(self) -> list[str]:
        return [f"careful: {'; '.join(self.notes)}"] if self.notes else []

    def _cost(self) -> str:
        words = [
            f"{name} {_spent(side.cost)}"
            for name, side in zip(("good", "bad"), self.sides, strict=True)
            if side.cost is not None
        ]
        runs = sum(side.cost.runs for side in self.sides if side.cost is not None)
        all_of_it = f"{counted(runs, 'run')} and the diagnosis {self.seconds:.1f} s"
        return f"cost: {'; '.join([*words, all_of_it])}"


def _spent(cost: Cost) -> str:
    """What one side took; times of a few milliseconds are not held against each other."""
    text = f"{cost.plain:.2f} s plain"
    if 1.0 < cost.recorded < cost.plain:
        text += ", less when recorded (the plain run came first and warmed up)"
    elif cost.plain > 0:
        text += f", {cost.recorded / cost.plain:.2f} x recorded"
    if cost.sanitized is not None and cost.plain > 0:
        text += f", {cost.sanitized / cost.plain:.1f} x sanitized"
    return text


def _finite(value: object) -> object:
    """Plain data in which numbers that JSON does not know are null."""
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value
