"""Is a trace still what was recorded? Reads all of it, and collects what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from skipstone.errors import TraceError
from skipstone.record.reader import StoredTrace

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """What was read of a trace, and what is wrong with it."""

    steps: int
    tensors: int
    events: int
    experiments: int
    faults: tuple[str, ...]
    """One line each; empty if everything is as it was recorded."""


def verify(trace: StoredTrace) -> Verdict:
    """Read everything that is in a trace; nothing is raised for what is damaged."""
    found = _Faults()
    steps = tensors = events = 0
    for sample in range(len(trace.headers)):
        found.lines += [f"of sample {sample}, {h}" for h in found.tried(trace.holes, sample) or ()]
        for forward in found.tried(trace.forwards, sample) or ():
            steps += found.tried(trace.step, sample, forward) is not None
        events += len(found.tried(trace.events, sample) or ())
        for key in found.tried(trace.keys, sample) or ():
            tensors += found.tried(trace.tensor, sample, key) is not None
    kept = found.tried(lambda: trace.experiments) or ()
    # A step that is damaged is one fault, however many tensors cannot be placed without it.
    return Verdict(steps, tensors, events, len(kept), tuple(dict.fromkeys(found.lines)))


class _Faults:
    """Lines of errors, and a way to go on after one."""

    def __init__(self) -> None:
        self.lines = list[str]()

    def tried(self, read: Callable[..., T], *arguments: object) -> T | None:
        """What ``read`` returns; None if it fails, which is noted."""
        try:
            return read(*arguments)
        except TraceError as error:
            self.lines.append(str(error))
            return None
