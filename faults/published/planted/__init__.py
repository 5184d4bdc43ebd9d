"""The faults: each a function that says what it does, with the right cause and its place."""

from __future__ import annotations

from faults.published.fault import Fault
from faults.published.planted import cache, forward, kept, loop, rule, skip, slips

EVERY: tuple[Fault, ...] = tuple(
    fault
    for module in (cache, kept, rule, slips, loop, forward, skip)
    for faults in vars(module).values()
    if isinstance(faults, tuple)
    for fault in faults
    if isinstance(fault, Fault)
)
