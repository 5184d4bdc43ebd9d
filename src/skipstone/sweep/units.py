"""What workers are given: the plan of a sweep, and the units that it is cut into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipstone.engine import Settings
from skipstone.sweep.grid import BASELINE, Setting

# Decoded together: more would gain little, and be run again where a worker is killed.
_MOST_OF_A_UNIT = 4
# For each worker: whoever is done takes the next, so that all end at about the same time.
_UNITS_OF_A_WORKER = 4


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to know to measure a prompt."""

    model: str
    device: str
    dtype: str
    threads: int
    """CPU threads of all workers together."""
    baseline: Settings
    settings: tuple[Setting, ...]
    explain: float = 0.0
    """Seconds that experiments on a changed answer may take; 0: nobody asks why."""
    reports: bool = False
    """Whether what was explained comes back with its records."""

    @property
    def all(self) -> tuple[Setting, ...]:
        """The baseline first."""
        return (Setting(BASELINE, self.baseline), *self.settings)

    def in_turn(self, prompt: int) -> tuple[Setting, ...]:
        """All settings; each prompt starts with another, so that none is always first or warm."""
        first = prompt % len(self.all)
        return self.all[first:] + self.all[:first]


@dataclass(frozen=True)
class DecodeUnit:
    """Prompts under the baseline and every setting."""

    prompts: tuple[tuple[int, str], ...]
    """Place among all prompts, and text."""
    timed: bool = True
    """Whether each run has the worker to itself; else all are decoded together."""


@dataclass(frozen=True)
class CauseUnit:
    """A changed answer whose cause is looked for."""

    prompt: int
    """Its place among all prompts."""
    text: str
    """Of the prompt."""
    setting: str


Unit = DecodeUnit | CauseUnit
"""What one worker runs as a whole."""


def decode_units(
    prompts: Sequence[tuple[int, str]], time_every: int, workers: int
) -> list[DecodeUnit]:
    """Those that are timed one by one, for they take longest; of the others several at a time.

    Args:
        prompts: place among all prompts, and text.
        time_every: one of so many places is timed.
        workers: among whom the units will be shared out.
    """
    timed = [prompt for prompt in prompts if prompt[0] % time_every == 0]
    others = [prompt for prompt in prompts if prompt[0] % time_every]
    size = min(_MOST_OF_A_UNIT, max(1, len(others) // (_UNITS_OF_A_WORKER * workers)))
    parts = [tuple(others[first : first + size]) for first in range(0, len(others), size)]
    return [
        *(DecodeUnit((prompt,)) for prompt in timed),
        *(DecodeUnit(part, timed=False) for part in parts),
    ]
