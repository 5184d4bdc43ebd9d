"""What a diagnosis says: causes with their evidence and proof, and what was ruled out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from skipstone.sentence import NOTHING, Sentence


class Proof(IntEnum):
    """How well a cause is proved; each level includes the ones before it."""

    OBSERVED = 1
    """Its pattern is in the traces."""
    CONSISTENT = 2
    """It predicts the size and the place of the difference."""
    SUFFICIENT = 3
    """Bringing only this into the other run reproduces the difference."""
    NECESSARY_AND_SUFFICIENT = 4
    """And taking only this away removes it."""

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Place:
    """Where; None stands for everywhere, or for not known."""

    block: int | None = None
    step: int | None = None
    layer: int | None = None
    position: int | None = None

    def __str__(self) -> str:
        parts = [
            f"{name} {value}"
            for name, value in (
                ("block", self.block),
                ("step", self.step),
                ("layer", self.layer),
                ("position", self.position),
            )
            if value is not None
        ]
        return ", ".join(parts) or "the whole run"


@dataclass(frozen=True)
class Finding:
    """One cause."""

    rule: str
    """Name of the rule, for example ``stale-kv``."""
    number: int
    """Of the diagnosis, in docs/diagnoses.md."""
    what: Sentence
    """One line."""
    where: Place
    evidence: Sentence
    """One line of numbers."""
    experiment: Sentence
    """What was tried and what came out; empty if nothing could be."""
    proof: Proof
    remedy: Sentence = NOTHING
    """What to do, or the next command."""
    positions: tuple[int, ...] = ()
    """All positions concerned, where that is known."""
    numbers: dict[str, float] = field(default_factory=dict)
    given: bool = False
    """Whether it is a difference in what the sides were given; merely observed, it is a remark."""


@dataclass(frozen=True)
class RuledOut:
    """A cause that was suspected and is not it."""

    rule: str
    why: Sentence
