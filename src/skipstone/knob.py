"""The knob of a policy: the one setting that trades care for speed, and values worth comparing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Knob:
    """A setting of a policy, and the values beside its default that a table of policies has."""

    setting: str
    values: tuple[float | int | str, ...]
