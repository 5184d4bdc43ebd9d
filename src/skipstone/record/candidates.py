"""The masks that the commit rule of one step chose among, as a record has them.

Shape letters: C candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Candidate:
    """A masked position of the block, or left of it, as the commit rule saw it.

    Where the rule may edit, a committed position of the block too.
    """

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
    entropy: float | None
    """Of the whole distribution, in nats; None if the rule did not ask for it."""
    drift: float | None
    """Divergence of the distribution from the one before, in nats; None if the rule did not ask."""
    age: int
    """Of the logits; above 0 if the row skipped."""
    eligible: bool
    """Whether it could be committed in this step."""
    committed: bool

    @property
    def bound_margin(self) -> float | None:
        """Confidence minus the bound; negative if the bound was missed."""
        return None if self.bound is None else self.confidence - self.bound


@dataclass(frozen=True, eq=False)
class Candidates:
    """The masked positions of one step, in order of position; one array a column.

    Where the unmask policy may edit, the committed positions of the block are among them: the token
    is then the one that would take the place of what is committed.
    """

    position: np.ndarray
    """int32 [C]"""
    token: np.ndarray
    """int32 [C]"""
    confidence: np.ndarray
    """float64 [C]"""
    runner_up: np.ndarray
    """int32 [C]"""
    runner_up_confidence: np.ndarray
    """float64 [C]"""
    rank: np.ndarray
    """int32 [C]"""
    bound: np.ndarray
    """float64 [C]; NaN if the rule has no bound."""
    entropy: np.ndarray
    """float64 [C], in nats: of the whole distribution; NaN where the rule did not ask for it."""
    drift: np.ndarray
    """float64 [C], in nats: divergence of the distribution from the one before; NaN where the rule
    did not ask for it."""
    age: np.ndarray
    """int32 [C]"""
    eligible: np.ndarray
    """bool [C]"""
    committed: np.ndarray
    """bool [C]"""

    def __repr__(self) -> str:
        return f"<Candidates: {len(self)} masks, {int(self.committed.sum())} committed>"

    def __len__(self) -> int:
        return self.position.size

    @property
    def allowed(self) -> np.ndarray:
        """float64 [C]: the confidence; -inf where nothing could be committed."""
        return np.where(self.eligible, self.confidence, -np.inf)

    def __iter__(self) -> Iterator[Candidate]:
        return (self._row(i) for i in range(len(self)))

    def at(self, position: int) -> Candidate | None:
        """The candidate at an absolute position; None if there was none."""
        found = np.flatnonzero(self.position == position)
        return self._row(int(found[0])) if found.size else None

    def _row(self, i: int) -> Candidate:
        return Candidate(
            position=int(self.position[i]),
            token=int(self.token[i]),
            confidence=float(self.confidence[i]),
            runner_up=int(self.runner_up[i]),
            margin=float(self.confidence[i] - self.runner_up_confidence[i]),
            rank=int(self.rank[i]),
            bound=_told(self.bound[i]),
            entropy=_told(self.entropy[i]),
            drift=_told(self.drift[i]),
            age=int(self.age[i]),
            eligible=bool(self.eligible[i]),
            committed=bool(self.committed[i]),
        )


def _told(number: float) -> float | None:
    return None if np.isnan(number) else float(number)
