"""Experiments as data: what a rule may ask for. ``tracing/experiments/runner.py`` carries them out.

Every experiment gives a trace, so that its result is read like any recorded run.

Shape letters: N rows, W values of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from skipstone.errors import SkipstoneError
from skipstone.record import Tap, Trace
from skipstone.sentence import Sentence

SideName = Literal["a", "b"]
Choice = Literal["rows", "skip"]
Variation = Literal["", "again", "batch", "padding", "threads", "backend", "last_bit"]

Horizon = Literal["later", "own block", "next block seen", "call seen", "padding seen"]
"""How far rows see: up to themselves, up to their block, one block too far, all rows of the call,
or the padding, too."""

Hidden = (
    Literal["", "prompt", "prompt in its block", "left", "suffix", "outside", "first", "last"]
    | Horizon
)
"""A set of keys that rows may not see; or that they see although they should not."""

VARIATIONS: tuple[Variation, ...] = (
    "again", "batch", "padding", "threads", "backend", "last_bit",
)  # fmt: skip
"""Changes that should not matter."""


Keys = Literal["rotated", "unrotated"]
"""How keys are shown and patched: as attention reads them, or as they are before rotation."""


Pairs = Literal["halves", "neighbours", "neighbours by angles of halves"]
"""Which two numbers of a head are turned together; the last takes each number's angle from a table
that is laid out for halves, as when two conventions are mixed."""


@dataclass(frozen=True)
class Turn:
    """Queries and keys of the computed rows, otherwise rotated or scaled than the model says."""

    queries: int = 0
    """Positions by which queries are turned too far."""
    keys: int = 0
    """The same for keys."""
    base: float = 0.0
    """Another base for both; 0 for the model's own."""
    stretch: float = 1.0
    """What positions are multiplied by, for both."""
    pairs: Pairs = "halves"
    rounded: bool = False
    """Rotate in bfloat16."""
    width_power: float = 0.0
    """Scores of attention are multiplied by the width of a head to this power."""


STRAIGHT = Turn()
"""Every row at its own position."""


@dataclass(frozen=True, eq=False)
class Patch:
    """Values to put in place of what a step computes, row by row at absolute positions."""

    tap: Tap
    """STATE, KEY, VALUE, VISIBLE or LOGITS."""
    forward: int
    layer: int
    positions: np.ndarray
    """int32 [N]"""
    values: np.ndarray
    """[N, W]"""


@dataclass(frozen=True)
class Rerun:
    """Decode the prompt again, freely, with one side's own code and some settings changed."""

    side: SideName
    changes: tuple[tuple[str, str], ...] = ()
    """Settings by name, in their text form."""
    tensors: tuple[int, int] | None = None
    """First and last forward whose tensors are wanted."""
    attempt: int = 0
    """Counts repetitions of the same run."""
    until: int | None = None
    """The last forward that matters; the run is left after it, without an outcome."""


@dataclass(frozen=True)
class Follow:
    """Lead the reference engine along recorded canvases: what should each step have given?

    The canvas of every step is the recorded one, so errors cannot add up from step to step; only
    the K/V store lives on. What the engine would have committed is in the candidates.
    """

    along: SideName
    """Whose canvases."""
    settings: SideName
    """Whose settings."""
    forwards: tuple[int, int]
    """First and last forward that matter; earlier ones run as far as the K/V store needs them."""
    changes: tuple[tuple[str, str], ...] = ()
    led: frozenset[Choice] = frozenset()
    """Choices that are taken from the record and not made by the policies."""
    patches: tuple[Patch, ...] = field(default=(), compare=False)
    patch_name: str = ""
    """Says what the patches are; part of the identity of this experiment."""
    variation: Variation = ""
    hidden: Hidden = ""
    seen: tuple[int, int] | None = None
    """Keys that rows see in ``forwards``: the first, and one past the last; None for all."""
    turn: Turn = STRAIGHT
    keys: Keys = "rotated"
    """How its tensors and patches have their keys."""
    unskip: tuple[int, ...] = ()
    """Forwards in which no row skips, whatever the policy or the record says."""
    lifted: bool = False
    """Compute in a better dtype: what does the model say without its rounding?"""
    tensors: bool = True


@dataclass(frozen=True)
class Rescore:
    """One exact forward over a made-up canvas: how sure is the model of some positions?"""

    side: SideName
    """Whose prompt."""
    ids: tuple[int, ...]
    """All new ids."""
    masked: tuple[int, ...]
    """Absolute positions that are to be masks, and are scored."""


@dataclass(frozen=True)
class Unobserved:
    """Decode the prompt again without an observer; the trace has an outcome and no steps."""

    side: SideName


ExperimentRequest = Rerun | Follow | Rescore | Unobserved


class Unavailable(SkipstoneError):
    """An experiment cannot be made here: no model, no way to run a side again, or no time left."""

    def __init__(self, why: Sentence) -> None:
        super().__init__(why)
        self.why = why


class Spent(Unavailable):
    """The time for experiments is over; what was not tried is not ruled out."""


class Experimenter(Protocol):
    """Carries out experiments within a time limit."""

    def ask(self, experiment: ExperimentRequest) -> Trace:
        """The run that the experiment asks for; the same question is answered once.

        Raises:
            Unavailable: it cannot be made; the message says why.
        """
        ...
