"""Records of runs as plain data: they open on a machine without torch."""

from skipstone.record.attention import AttentionNumbers, of_call
from skipstone.record.candidates import Candidate, Candidates
from skipstone.record.judgements import Judgements
from skipstone.record.reader import StoredTrace, open_trace
from skipstone.record.schema import (
    ASSIGNED,
    LAST_UNSEEN,
    LOOP_WAS_GIVEN,
    RANDOM_CALLS,
    SCORE_OFFSET,
    WITHIN,
    Event,
    Header,
    Outcome,
    RunRecord,
    StepRecord,
)
from skipstone.record.sketch import Sketch
from skipstone.record.store import Experiment
from skipstone.record.tensors import OF_ATTENTION, Source, Tap, TensorKey, TensorRows
from skipstone.record.trace import MemoryTrace, Sink, Trace
from skipstone.record.writer import TraceWriter

__all__ = [
    "ASSIGNED",
    "LAST_UNSEEN",
    "LOOP_WAS_GIVEN",
    "OF_ATTENTION",
    "RANDOM_CALLS",
    "SCORE_OFFSET",
    "WITHIN",
    "AttentionNumbers",
    "Candidate",
    "Candidates",
    "Event",
    "Experiment",
    "Header",
    "Judgements",
    "MemoryTrace",
    "Outcome",
    "RunRecord",
    "Sink",
    "Sketch",
    "Source",
    "StepRecord",
    "StoredTrace",
    "Tap",
    "TensorKey",
    "TensorRows",
    "Trace",
    "TraceWriter",
    "of_call",
    "open_trace",
]
