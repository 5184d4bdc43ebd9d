"""Places that the page can go to, and what it says about them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from skipstone.diagnosis.finding import Place
from skipstone.record import RunRecord
from skipstone.report.words import Say, say


@dataclass(frozen=True)
class Spot:
    """A place that the page can go to; None where it makes no difference."""

    block: int
    step: int
    layer: int | None = None
    position: int | None = None

    @property
    def link(self) -> str:
        """As the page's address spells it, like ``b1.s3.l12.p57``."""
        parts = {"b": self.block, "s": self.step, "l": self.layer, "p": self.position}
        return ".".join(f"{name}{value}" for name, value in parts.items() if value is not None)

    @property
    def said(self) -> Say:
        """Block and step, in words."""
        return say("place.at", block=self.block, step=self.step)


def spot_of(place: Place) -> Spot | None:
    """The place of a finding, if it is in one step."""
    if place.block is None or place.step is None:
        return None
    return Spot(place.block, place.step, place.layer, place.position)


def said_place(place: Place) -> Say:
    """The place of a finding in words."""
    parts = [
        say(f"place.{name}", value=value)
        for name in ("block", "step", "layer", "position")
        if (value := getattr(place, name)) is not None
    ]
    if not parts:
        return say("place.everywhere")
    return reduce(lambda a, b: say("place.and", first=a, then=b), parts)


def commit_spots(record: RunRecord) -> dict[int, Spot]:
    """Where each position was committed."""
    return {
        position: Spot(step.block, step.step, None, position)
        for step in record.steps
        for position in step.committed
    }
