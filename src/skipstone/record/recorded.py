"""What stands for a recorded run: a recorder, a trace, a record, or the path of a trace."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from skipstone.errors import ConfigError, TraceError
from skipstone.kinds import of_kind
from skipstone.quoting import shown
from skipstone.record.reader import open_trace
from skipstone.record.schema import RunRecord
from skipstone.record.trace import MemoryTrace, Trace


@runtime_checkable
class Recorded(Protocol):
    """What recorded a run: a ``Recorder``, or what ``attach`` gave."""

    @property
    def trace(self) -> Trace:
        """The run, if it is in memory; else empty."""
        ...

    @property
    def path(self) -> Path | None:
        """Folder of the run, if it is on disk."""
        ...


Given: TypeAlias = "Recorded | Trace | RunRecord | str | Path"
"""Whatever stands for a run."""


def stands_for_run(given: object) -> bool:
    """Whether something can be given to ``trace_of``; a text is taken for a path."""
    return isinstance(given, (RunRecord, str, Path, Trace, Recorded))


def trace_of(given: object, name: str) -> Trace:
    """The trace of a run.

    Args:
        given: a recorder, what ``attach`` gave, a trace, a record, or the path of a trace.
        name: of the argument, for errors.

    Raises:
        ConfigError: it is none of these, or nothing was recorded.
        TraceError: there is no trace at the path.
    """
    if isinstance(given, (str, Path)):
        return open_trace(given)
    if isinstance(given, RunRecord):
        return _of_record(given, name)
    if isinstance(given, Recorded):
        trace = open_trace(given.path) if given.path is not None else given.trace
    elif isinstance(given, Trace):
        trace = given
    else:
        raise ConfigError(_refused(given, name))
    if not len(trace.records):
        raise ConfigError(
            f"{name} has recorded nothing yet; run the loop within its with block, or the engine "
            f"with observer=..."
        )
    return trace


def record_of(given: object, sample: int, name: str) -> RunRecord:
    """The record of one sample; a record stands for itself.

    Raises:
        ConfigError: as ``trace_of`` does, or there is no such sample.
        TraceError: there is no trace at the path, or it is damaged.
    """
    if isinstance(given, RunRecord):
        return given
    of_kind("sample", sample, Integral, "a whole number, 0 for the first")
    records = trace_of(given, name).records
    if not 0 <= sample < len(records):
        raise ConfigError(f"sample is {sample}, {name} has {len(records)} samples")
    return records[sample]


def single(trace: Trace, sample: int) -> MemoryTrace:
    """One sample of a trace alone, without its tensors."""
    return _of_record(trace.records[sample], f"sample {sample}")


def _of_record(record: RunRecord, name: str) -> MemoryTrace:
    """A trace of one sample, without tensors."""
    if record.holes:
        raise TraceError(f"{name} is incomplete, since {record.holes[0]}; copy its trace again")
    trace = MemoryTrace()
    trace.begin([record.header], "decisions")
    for step in record.steps:
        trace.step(0, step, {})
    for event in record.events:
        trace.event(0, event)
    if record.outcome is not None:
        trace.end([record.outcome])
    return trace


def _refused(given: object, name: str) -> str:
    what = "give a recorder, what attach gave, a trace, or the path of one"
    if isinstance(given, (list, tuple)) and given and all(map(stands_for_run, given)):
        return f"{name} is a {type(given).__name__} of {len(given)} runs; give one of them"
    return f"{name} is {shown(given)} ({type(given).__name__}), which is no recorded run; {what}"
