"""Which row scores a position, as the commits of a run show it.

Most models score a position by its own row; Dream's kind by the row before. Nothing in a call says
which. But a loop writes the best token of the row that it reads, so a few commits tell: those where
the two rows have different best tokens.

Shape letters: L canvas length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from skipstone.foreign.attach.seen import MaskScores, Seen
from skipstone.reach import FULL, Reach
from skipstone.record import SCORE_OFFSET, Event

SHIFTED = Reach(score_offset=-1)
"""A row scores the position after it."""

# So many commits that only one reading explains, and so many times those of the other, are enough.
_ENOUGH, _TIMES = 4, 4
# At the end of a run that was short, these are, if the other reading explains none.
_FEW = 2
# Commits after which nothing more is to be learnt: the loop draws its tokens, or combines scores.
_MOST = 32


@dataclass(eq=False)
class ScoreOffset:
    """What was stated, and what the commits show; all of one run."""

    stated: int | None
    """By the user, which counts; None to go by the commits."""
    own: int = 0
    """Commits that take the best token of their own row, and not that of the row before."""
    shifted: int = 0
    """The other way round."""
    looked_at: int = 0
    """Commits of which both rows were scored."""
    _over: bool = False

    @property
    def settled(self) -> bool:
        """Whether what counts will not change any more."""
        return self.stated is not None or self._told

    @property
    def _told(self) -> bool:
        return self._over or self._by(_ENOUGH) is not None or self.looked_at >= _MOST

    @property
    def reach(self) -> Reach:
        """Which positions rows score: their own, unless it was stated or shown otherwise."""
        offset = self.stated if self.stated is not None else self._shown
        return SHIFTED if offset == -1 else FULL

    @property
    def _shown(self) -> int | None:
        """What the commits say; None if they are too few, or contradict each other."""
        return self._by(_FEW if self._over else _ENOUGH)

    @property
    def readings(self) -> tuple[Reach, ...]:
        """What is scored: both readings, as long as commits may still tell them apart."""
        return (self.reach,) if self._told else (FULL, SHIFTED)

    def note(self, seen: Seen, mask_id: int, eos_id: int) -> Event | None:
        """Look at the commits of a call.

        Returns:
            What is worth saying: that scores are shifted, or not what was stated.
        """
        if self._told or seen.shifted is None:
            return None
        # A canvas may have grown meanwhile. Ends are written without being chosen.
        after_L = seen.after[: seen.before.size]
        new_L = (seen.before == mask_id) & (after_L != mask_id) & (after_L != eos_id)
        own_L, shifted_L = _taken(seen.scores, new_L), _taken(seen.shifted, new_L)
        both_L = (own_L >= 0) & (shifted_L >= 0)
        self.own += int((own_L > shifted_L)[both_L].sum())
        self.shifted += int((shifted_L > own_L)[both_L].sum())
        self.looked_at += int(both_L.sum())
        return self._said() if self._told else None

    def over(self) -> Event | None:
        """The run has ended: fewer commits have to be enough."""
        if self._told:
            return None
        self._over = True
        return self._said()

    def read(self, seen: Seen) -> Seen:
        """The call with the scores that count."""
        if seen.shifted is None:
            return seen
        scores = seen.shifted if self.reach is SHIFTED else seen.scores
        return replace(seen, scores=scores, shifted=None)

    def _by(self, least: int) -> int | None:
        for offset, mine, other in ((0, self.own, self.shifted), (-1, self.shifted, self.own)):
            rare = other == 0 if least < _ENOUGH else other * _TIMES <= mine
            if mine >= least and rare:
                return offset
        return None

    def _said(self) -> Event | None:
        shown = self._shown
        counts = (
            f"{self.shifted} of {self.shifted + self.own} commits that tell take the best token of "
            f"the row before their position, {self.own} that of their own row"
        )
        if self.stated is not None and shown is not None and shown != self.stated:
            message = f"score_offset was stated as {self.stated}, which counts; but {counts}"
        elif self.reach is SHIFTED:
            how = counts if self.stated is None or shown is not None else "as stated"
            message = f"a row scores the position after it (score_offset=-1): {how}"
        else:
            return None
        numbers = {"offset": self.reach.score_offset, "own": self.own, "shifted": self.shifted}
        return Event(SCORE_OFFSET, message, numbers={k: float(v) for k, v in numbers.items()})


def _taken(scores: MaskScores, new_L: np.ndarray) -> np.ndarray:
    """Of every position that was committed, whether its best token was taken: int8 [L].

    1 if it was, 0 if not, -1 where nothing was committed or nothing scored.
    """
    taken_L = np.full(new_L.size, -1, np.int8)
    at = new_L[scores.position]
    best_C = scores.confidence >= scores.runner_up_confidence
    taken_L[scores.position[at]] = best_C[at]
    return taken_L
