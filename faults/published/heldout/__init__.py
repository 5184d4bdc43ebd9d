"""Faults that were chosen and planted by someone who had not read the rules of the diagnosis.

They are kept apart from the others: the shares of their first run say what to expect in code, and
of mistakes, that nobody thought of. Whoever mends what they show plants other faults of its kind.
"""

from __future__ import annotations

from faults.published.fault import Fault
from faults.published.heldout import cache, forward, given, loop, rule

EVERY: tuple[Fault, ...] = tuple(
    fault
    for module in (cache, rule, loop, forward, given)
    for faults in vars(module).values()
    if isinstance(faults, tuple)
    for fault in faults
    if isinstance(fault, Fault)
)
