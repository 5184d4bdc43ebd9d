"""Faults of a judge who had read neither the rules of the diagnosis nor the other faults.

They were written down, with what is right to say, before the diagnosis was asked once; see
``docs/diagnoses.md`` for the shares of that first run. Two of the code bases had no faults before.
"""

from __future__ import annotations

from faults.published.fault import Fault
from faults.published.unseen import batch, cache, forward, given, rule

EVERY: tuple[Fault, ...] = tuple(
    fault
    for module in (rule, cache, forward, given, batch)
    for faults in vars(module).values()
    if isinstance(faults, tuple)
    for fault in faults
    if isinstance(fault, Fault)
)
