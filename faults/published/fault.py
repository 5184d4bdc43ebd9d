"""What a planted fault is: where it goes, and what is right to say about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faults.published.code import Code, Context, Job
from faults.truth import Truth
from skipstone.diagnosis.finding import Finding

Plant = Callable[[Code], Context]
"""Entered around the bad run, and around nothing else."""


@dataclass(frozen=True)
class Fault:
    """A mistake that someone could make in a code base."""

    name: str
    base: str
    plant: Plant
    causes: tuple[str, ...]
    """Rules that are right to name; more than one only where both are equally true. ``rule: word``
    asks for a word in what is said, where the rule alone would say too little."""
    truth: Truth
    jobs: tuple[Job, ...]
    settings: Callable[[Job], Job] | None = None
    """The settings of the bad run, where they are the fault."""
    request: int = 0
    """Which request of a batch is asked about."""

    @property
    def says(self) -> str:
        """What it does, in one line."""
        return (self.plant.__doc__ or "").strip().splitlines()[0]

    def right(self, finding: Finding) -> bool:
        """Whether a finding names a right cause."""
        for cause in self.causes:
            rule, _, word = cause.partition(": ")
            if finding.rule == rule and word in str(finding.what):
                return True
        return False


def planted(
    *causes: str,
    at: Truth,
    into: dict[str, tuple[Job, ...]],
    settings: Callable[[Job], Job] | None = None,
    request: int = 0,
) -> Callable[[Plant], tuple[Fault, ...]]:
    """Make faults of a function, one for every code base that it goes into.

    Args:
        causes: rules that are right to name.
        at: where it acts first.
        into: code bases, and the jobs at which to try it.
        settings: makes the job of the bad run, where that is the fault.
        request: of a batch, to ask about.
    """

    def make(plant: Plant) -> tuple[Fault, ...]:
        name = getattr(plant, "__name__", "").strip("_").replace("_", " ")
        return tuple(
            Fault(name, base, plant, causes, at, jobs, settings, request)
            for base, jobs in into.items()
        )

    return make
