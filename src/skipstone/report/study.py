"""The runs of a report, and everything that was worked out about them: what all views draw from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diff import Comparison, Difference, Floor, Pair, compare, diff
from skipstone.diff.difference import sample_of
from skipstone.errors import ConfigError
from skipstone.kinds import of_kind
from skipstone.quoting import shown
from skipstone.record import RunRecord, StepRecord, StoredTrace, Trace
from skipstone.record.recorded import Given, trace_of

if TYPE_CHECKING:
    from skipstone.report.notebook import Figure

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

    def view(self, name: str, *, step: int | None = None, position: int | None = None) -> Figure:
        """One chart of the report, for a notebook.

        Args:
            name: of ``skipstone.report.views.VIEWS``, such as ``commits_difference``, ``errors``,
                ``candidates`` or ``histogram``.
            step: index among ``steps``; the first decision that differs if None.
            position: absolute; the one of that decision if None.

        Raises:
            ConfigError: no such view or step, or a package for drawing is missing.
        """
        # Drawing is built on studies, and this is a short way to it.
        from skipstone.report.notebook import figure

        return figure(self, name, step=step, position=position)

    def __repr__(self) -> str:
        """Which runs, without their records."""
        runs = ", ".join(f"{run.letter}: {run.name}" for run in self.runs)
        return f"<Study of {runs}>"

    def _repr_html_(self) -> str:
        """Verdict and answers, for a notebook."""
        from skipstone.report.notebook import summary

        return summary(self)

    @property
    def prompt_length(self) -> int:
        """Number of prompt positions."""
        return self.a.record.prompt_length

    @property
    def length(self) -> int:
        """Positions of the longer canvas."""
        return max(run.record.length for run in self.pair)


def study(
    traces: Sequence[Given],
    *,
    names: Sequence[str] = (),
    sample: int = 0,
    floor: Floor | None = None,
    diagnosis: Diagnosis | None = None,
    token: Token | None = None,
) -> Study:
    """Compare runs of one prompt for a report.

    Of more than two runs, the baseline and the first run that parts from it are looked at closely.

    Args:
        traces: two or more, as recorders, traces or paths; the first is the baseline.
        names: what to call them; their folders if not given.
        sample: which request of each.
        floor: noise; estimated from the dtype if None.
        diagnosis: why the two runs part, from ``skipstone.diagnose``.
        token: text of an id; ids are shown as numbers if None.

    Raises:
        ConfigError: fewer than two runs, no such sample, no step, not one prompt, or an argument
            of another kind.
        TraceError: there is no trace at a path, or it is damaged.
    """
    _check(traces, names, floor, diagnosis, token)
    if len(traces) < 2:
        raise ConfigError(f"a report needs two or more traces, found {len(traces)}")
    opened = [trace_of(trace, f"trace {_letter(i)}") for i, trace in enumerate(traces)]
    runs = tuple(_runs(opened, names, sample))
    chosen = closest_look(opened, sample)
    difference = diff(opened[0], runs[chosen].trace, sample=sample, floor=floor)
    token = token or _by_number
    if diagnosis is not None:
        diagnosis = diagnosis.naming(token)
    return Study(runs, runs[chosen], difference, diagnosis, token)


def _check(traces: object, names: object, floor: object, diagnosis: object, token: object) -> None:
    """Refuse arguments of another kind."""
    of_kind("traces", traces, (list, tuple), "a list of two or more runs")
    of_kind("names", names, (list, tuple), "a list of names, one for each run")
    for name in names if isinstance(names, (list, tuple)) else ():
        of_kind("a name", name, str, "text")
    of_kind("floor", floor, Floor, "a floor of noise from skipstone.diff", optional=True)
    of_kind("diagnosis", diagnosis, Diagnosis, "what skipstone.diagnose gave", optional=True)
    if token is not None and not callable(token):
        raise ConfigError(f"token is {shown(token)}, must be a function from an id to its text")


def closest_look(traces: Sequence[Trace], sample: int = 0) -> int:
    """The first run that parts from the baseline, which a report looks at closely; 1 if none does.

    Raises:
        ConfigError: no such sample, or not one prompt.
    """
    first, *others = (sample_of(t, sample, _letter(i)) for i, t in enumerate(traces))
    parted = (i for i, run in enumerate(others, 1) if not compare(first, run).identical)
    return next(parted, 1)


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _runs(traces: Sequence[Trace], names: Sequence[str], sample: int) -> list[Run]:
    if len(traces) > 26:
        raise ConfigError(f"a report shows up to 26 runs, found {len(traces)}; leave some out")
    runs = list[Run]()
    for i, trace in enumerate(traces):
        letter = _letter(i)
        record = sample_of(trace, sample, letter)
        if not record.steps:
            raise ConfigError(f"trace {letter} has no finished step; nothing can be shown of it")
        name = names[i] if i < len(names) else _name(trace, record)
        runs.append(Run(letter, name, trace, record))
    return runs


def _name(trace: Trace, record: RunRecord) -> str:
    return str(trace.path) if isinstance(trace, StoredTrace) else record.header.model


def _by_number(token: int) -> str:
    return f"#{token}"
