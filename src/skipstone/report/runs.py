"""The runs of a report, and what was worked out about them: what facts and views draw from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diff import Comparison, Difference, Pair, compare
from skipstone.record import RunRecord, StepRecord, Trace

Token = Callable[[int], str]
"""The text of a token id."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run of the report."""

    letter: str
    """``A`` is the baseline."""
    name: str
    """Of its trace, as the user gave it."""
    trace: Trace
    record: RunRecord


@dataclass(frozen=True, eq=False, repr=False)
class Study:
    """The runs, and the pair of them that is looked at closely."""

    runs: tuple[Run, ...]
    b: Run
    """The run that is held against the first."""
    difference: Difference
    diagnosis: Diagnosis | None
    """None if nobody asked why."""
    token: Token
    html: Callable[[Study], str]
    """How a notebook shows it."""

    @property
    def a(self) -> Run:
        """The baseline."""
        return self.runs[0]

    @property
    def pair(self) -> tuple[Run, Run]:
        """The two runs that are looked at closely."""
        return self.a, self.b

    @property
    def letters(self) -> tuple[str, str]:
        """Of the two."""
        return self.a.letter, self.b.letter

    @property
    def steps(self) -> tuple[Pair, ...]:
        """Steps of the pair beside each other; what the page counts as steps."""
        return self.difference.alignment.pairs

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Every run but the first held against the first."""
        return tuple(compare(self.a.record, run.record) for run in self.runs[1:])

    @cached_property
    def neighbours(self) -> tuple[Comparison, ...]:
        """Every run but the first held against the one before it."""
        return tuple(
            compare(before.record, run.record)
            for before, run in zip(self.runs, self.runs[1:], strict=False)
        )

    def of(self, run: Run, pair: Pair) -> StepRecord | None:
        """The step of a run in a pair of steps."""
        return pair.a if run is self.a else pair.b

    def index(self, run: Run, forward: int) -> int | None:
        """Where a forward of a run stands among the steps; None if it is not there."""
        return self._indices[run is self.a].get(forward)

    @cached_property
    def _indices(self) -> tuple[dict[int, int], dict[int, int]]:
        a, b = dict[int, int](), dict[int, int]()
        for i, pair in enumerate(self.steps):
            if pair.a is not None:
                a[pair.a.forward] = i
            if pair.b is not None:
                b[pair.b.forward] = i
        return b, a

    @property
    def first(self) -> int | None:
        """The step of the first decision that differs; None if there is none."""
        found = self.difference.decision
        if found is None:
            return None
        if found.forward_a >= 0:
            return self.index(self.a, found.forward_a)
        return self.index(self.b, found.forward_b)

    def __repr__(self) -> str:
        """Which runs, without their records."""
        runs = ", ".join(f"{run.letter}: {run.name}" for run in self.runs)
        return f"<Study of {runs}>"

    def _repr_html_(self) -> str:
        """Verdict and answers, for a notebook."""
        return self.html(self)

    @property
    def prompt_length(self) -> int:
        """Number of prompt positions."""
        return self.a.record.prompt_length

    @property
    def length(self) -> int:
        """Positions of the longer canvas."""
        return max(run.record.length for run in self.pair)
