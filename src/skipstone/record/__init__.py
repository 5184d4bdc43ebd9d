"""Records of runs as plain data: they open on a machine without torch."""

from skipstone.record.schema import (
    Candidate,
    Header,
    Judgement,
    Outcome,
    RunRecord,
    StepRecord,
)

__all__ = ["Candidate", "Header", "Judgement", "Outcome", "RunRecord", "StepRecord"]
