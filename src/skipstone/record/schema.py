"""What is written down about a run of one request.

Positions are absolute: position 0 is the first prompt token. Forwards are counted from 0 over the
whole run, blocks and steps within a block from 0, layers from 1. An age is counted in forwards: 0
means computed in this one; -1 stands for never.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Header:
    """What was run on what."""

    model: str
    num_layers: int
    width: int
    vocab_size: int
    mask_id: int
    eos_id: int
    dtype: str
    """Of weights and states."""
    device: str
    settings: dict[str, str]
    """Every setting in its text form."""
    prompt_ids: tuple[int, ...]
    versions: dict[str, str]
    """Of Skipstone, torch and Python."""


@dataclass(frozen=True)
class Candidate:
    """A masked position of the block, or left of it, as the commit rule saw it."""

    position: int
    token: int
    """The token it would take."""
    confidence: float
    """The probability of that token."""
    runner_up: int
    """The most probable other token."""
    margin: float
    """Confidence minus the probability of the runner-up."""
    rank: int
    """0 for the most confident of those that could be committed."""
    bound: float | None
    """Confidence that the unmask rule asked for; None if the rule has no bound."""
    age: int
    """Of the logits; above 0 if the row skipped."""
    eligible: bool
    """Whether it could be committed in this step."""
    committed: bool

    @property
    def bound_margin(self) -> float | None:
        """Confidence minus the bound; negative if the bound was missed."""
        return None if self.bound is None else self.confidence - self.bound


@dataclass(frozen=True)
class Judgement:
    """What the skip rule said about one row."""

    position: int
    smallest: float
    """Smallest similarity over the compared layers."""
    mean: float
    """Mean similarity over the compared layers."""
    similarities: tuple[float, ...]
    """Similarity after layer 1, 2, ... K-1."""
    stable: bool
    """Whether the similarities allow a skip."""
    forced: bool
    """Whether the row had to go on all the same."""

    @property
    def skipped(self) -> bool:
        """Whether the row left before the deep layers."""
        return self.stable and not self.forced


@dataclass(frozen=True)
class StepRecord:
    """One forward and its commit."""

    forward: int
    block: int
    step: int
    recovery: bool
    """Repeats a step that committed nothing, over all rows and without skip."""
    refresh: bool
    """Recomputed every row in every layer."""
    block_start: int
    """First position of the block."""
    block_stop: int
    """First position after the block."""
    ids_before: tuple[int, ...]
    """Ids of all new positions before the commit."""
    ids_after: tuple[int, ...]
    status_before: tuple[int, ...]
    """Status of all new positions: 2 mask, 3 committed, 4 filled by the early stop."""
    status_after: tuple[int, ...]
    rows: tuple[int, ...]
    """Positions that entered layer 1."""
    finished: tuple[int, ...]
    """Positions that went through every layer."""
    entered_age: tuple[int, ...]
    """Age of the first layers' K/V, for every position of the canvas."""
    finished_age: tuple[int, ...]
    """Age of the deep layers' K/V, state and logits, for every position of the canvas."""
    candidates: tuple[Candidate, ...]
    judgements: tuple[Judgement, ...]
    """Empty where the skip rule was not asked."""
    state_shape: tuple[int, ...]
    """Shape of the states that entered layer 1: rows, width."""
    reference_shape: tuple[int, ...] | None
    """Shape of the states they were compared with, row for row at the same positions."""
    state_dtype: str
    logits: np.ndarray | None = None
    """float32 [candidates that were scored, vocabulary], if they were asked for."""
    logit_positions: tuple[int, ...] = ()
    """Position of each row of ``logits``."""

    @property
    def committed(self) -> tuple[int, ...]:
        """Positions committed in this step."""
        return tuple(c.position for c in self.candidates if c.committed)

    @property
    def skipped(self) -> tuple[int, ...]:
        """Positions that left before the deep layers."""
        return tuple(sorted(set(self.rows) - set(self.finished)))

    @property
    def masks_before(self) -> int:
        """Masks in the block before the commit."""
        return self._masks(self.status_before)

    @property
    def masks_after(self) -> int:
        """Masks in the block after the commit."""
        return self._masks(self.status_after)

    def _masks(self, status: tuple[int, ...]) -> int:
        first = len(self.entered_age) - len(status)
        return sum(s == 2 for s in status[self.block_start - first : self.block_stop - first])


@dataclass(frozen=True)
class Outcome:
    """How the run ended."""

    text: str
    tokens: tuple[int, ...]
    """All new ids."""
    masks_left: int
    num_forwards: int
    skip_share: float
    seconds: float


@dataclass(frozen=True)
class RunRecord:
    """One request from its first forward to its end."""

    header: Header
    steps: tuple[StepRecord, ...]
    outcome: Outcome

    @property
    def prompt_length(self) -> int:
        """Number of prompt positions; the first new token stands at this position."""
        return len(self.header.prompt_ids)
