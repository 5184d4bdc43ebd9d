"""How traces become the study that a report is about."""

from __future__ import annotations

from collections.abc import Sequence

from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diff import Floor, compare, diff
from skipstone.diff.difference import sample_of
from skipstone.errors import ConfigError
from skipstone.kinds import of_kind
from skipstone.quoting import shown
from skipstone.record import RunRecord, StoredTrace, Trace
from skipstone.record.recorded import Given, trace_of
from skipstone.report.notebook import summary
from skipstone.report.runs import Run, Study, Token


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
    return Study(runs, runs[chosen], difference, diagnosis, token, summary)


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
