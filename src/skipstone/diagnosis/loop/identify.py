"""From a trace to the rules that its loop may have followed."""

from __future__ import annotations

from skipstone.diagnosis.loop.evidence import Evidence
from skipstone.diagnosis.loop.fit import Identified, identify
from skipstone.diagnosis.loop.stated import Stated
from skipstone.record import Trace


def identified(trace: Trace, sample: int, wanted: tuple[int, ...] = ()) -> Identified:
    """Find the rules by which a sample was decoded.

    Args:
        trace: of the run; with logits, or with the candidates of its steps alone.
        sample: which of its requests.
        wanted: forwards that are looked at in any case.
    """
    header = trace.records[sample].header
    special = tuple(i for i in (header.mask_id, header.eos_id) if i >= 0)
    evidence = Evidence.of(trace, sample, special, wanted)
    return identify(evidence, Stated.of(header))
