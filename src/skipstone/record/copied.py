"""A trace written to disk from wherever it is."""

from __future__ import annotations

from pathlib import Path

from skipstone.record.reader import StoredTrace
from skipstone.record.trace import MemoryTrace, Trace
from skipstone.record.writer import TraceWriter


def write_trace(trace: Trace, path: Path) -> None:
    """Write a trace as a new folder; an unfinished run stays unfinished.

    Args:
        trace: in memory or on disk.
        path: of the new folder.

    Raises:
        OutputError: something is there already, or it cannot be written.
        TraceError: the trace is damaged.
    """
    records = trace.records
    with TraceWriter(path) as sink:
        sink.begin([record.header for record in records], _level(trace))
        for sample, record in enumerate(records):
            keys = trace.keys(sample)
            for step in record.steps:
                found = ((k, trace.tensor(sample, k)) for k in keys if k.forward == step.forward)
                tensors = {
                    k: (rows.positions, rows.values) for k, rows in found if rows is not None
                }
                sink.step(sample, step, tensors)
            for event in record.events:
                sink.event(sample, event)
        outcomes = [record.outcome for record in records if record.outcome is not None]
        if len(outcomes) == len(records):
            sink.end(outcomes)


def _level(trace: Trace) -> str:
    if isinstance(trace, StoredTrace):
        return trace.manifest.level
    return trace.level if isinstance(trace, MemoryTrace) else "decisions"
