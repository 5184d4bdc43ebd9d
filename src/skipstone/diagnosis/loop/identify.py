"""From a trace to the rules that its loop may have followed."""

from __future__ import annotations

from skipstone.diagnosis.by_row import ByRow, offset_of
from skipstone.diagnosis.loop.evidence import Evidence
from skipstone.diagnosis.loop.fit import Identified, identify
from skipstone.diagnosis.loop.stated import Stated
from skipstone.record import Trace


def identified(
    trace: Trace, sample: int, wanted: tuple[int, ...] = (), *, plainly: bool = False
) -> Identified:
    """Find the rules by which a sample was decoded.

    Args:
        trace: of the run; with logits, or with the candidates of its steps alone.
        sample: which of its requests.
        wanted: forwards that are looked at in any case.
        plainly: look only at orders by probability, of which most loops have one.
    """
    record, header = trace.records[sample], trace.records[sample].header
    special = tuple(i for i in (header.mask_id, header.eos_id) if i >= 0)
    evidence = Evidence.of(trace, sample, special, wanted)
    score_offset = 0 if isinstance(trace, ByRow) else offset_of(record)
    return identify(evidence, Stated.of(header, score_offset), plainly=plainly)


def more_closely(found: Identified) -> Identified:
    """The same with every order that is known; what was read of the logits is kept."""
    return identify(found.evidence, found.stated)
