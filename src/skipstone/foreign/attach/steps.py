"""From the forwards of a foreign loop to steps: which block, which step, what was committed.

A foreign loop tells nothing but its calls. What a step committed are the masks of its canvas that
are none in the canvas of the next call. Blocks come from a known block length, from the rows of
partial calls, or at the end from the order of the commits.

Shape letters: L canvas length, G new positions, N rows of a call, C scored masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skipstone.record import Candidates, StepRecord

_MASK, _COMMITTED, _FILLED, _PROMPT = 2, 3, 4, 1

# Shorter blocks are not read from the order of commits: a loop that goes from left to right would
# look like blocks of one.
_SHORTEST = 4


@dataclass(frozen=True, eq=False)
class Scores:
    """What a call says about the masks among its rows; one array a column."""

    position: np.ndarray
    """int32 [C], ascending"""
    token: np.ndarray
    """int32 [C]"""
    confidence: np.ndarray
    """float64 [C]"""
    runner_up: np.ndarray
    """int32 [C]"""
    runner_up_confidence: np.ndarray
    """float64 [C]"""


@dataclass(frozen=True, eq=False)
class Seen:
    """One call and what the loop made of it, for one sample."""

    forward: int
    rows: np.ndarray
    """int32 [N]: positions that entered layer 1."""
    finished: np.ndarray
    """int32: positions that went through every layer."""
    skip_layer: int
    """The first layer that other rows did not compute; 0 if all finished."""
    keeps: bool
    """Whether the model gave back keys and values to be used again."""
    positions_from: str
    before: np.ndarray
    """int64 [L]: the canvas of the call."""
    after: np.ndarray
    """int64 [L]: the canvas of the next call, or the last one known."""
    next_rows: np.ndarray | None
    """int32: rows of the next call; None if there was none."""
    scores: Scores
    seconds: float

    @property
    def whole(self) -> bool:
        """Whether the call computed every position."""
        return self.rows.size == self.before.size


class Assembler:
    """Turns the calls of one sample into step records, in order."""

    def __init__(
        self, canvas: np.ndarray, prompt_length: int, mask_id: int, eos_id: int, bound: float
    ) -> None:
        """Start from the first canvas, int64 [L]; ``bound`` is NaN if the rule has none known."""
        self._given = canvas != mask_id
        self._prompt_length = prompt_length
        self._mask_id, self._eos_id = mask_id, eos_id
        self._bound = bound
        self._entered_at = np.full(canvas.size, -1, np.int32)
        self._finished_at = np.full(canvas.size, -1, np.int32)
        self._board = Scores(
            position=np.arange(canvas.size, dtype=np.int32),
            token=np.full(canvas.size, -1, np.int32),
            confidence=np.full(canvas.size, np.nan),
            runner_up=np.full(canvas.size, -1, np.int32),
            runner_up_confidence=np.full(canvas.size, np.nan),
        )
        self._block, self._step = 0, -1

    def record(self, seen: Seen, block_length: int) -> StepRecord:
        """The step that a call was, in blocks of ``block_length``."""
        self._enter(self._block_of(seen, block_length))
        self._entered_at[seen.rows] = seen.forward
        self._finished_at[seen.finished] = seen.forward
        self._write(seen.scores)
        start = self._prompt_length + self._block * block_length
        stop = min(start + block_length, seen.before.size)
        new = slice(self._prompt_length, None)
        return StepRecord(
            forward=seen.forward,
            block=self._block,
            step=self._step,
            recovery=False,
            refresh=seen.whole and seen.keeps,
            block_start=start,
            block_stop=stop,
            ids_before=seen.before[new].astype(np.int32),
            ids_after=seen.after[new].astype(np.int32),
            status_before=self._status(seen.before)[new],
            status_after=self._status_after(seen)[new],
            rows=seen.rows,
            finished=seen.finished,
            entered_age=_age(self._entered_at, seen.forward),
            finished_age=_age(self._finished_at, seen.forward),
            candidates=self._candidates(seen, stop),
            judgements=None,
            skip_layer=seen.skip_layer,
            seconds=seen.seconds,
            positions_from=seen.positions_from,
        )

    def _enter(self, block: int) -> None:
        """Count steps within the block."""
        self._step = self._step + 1 if block == self._block else 0
        self._block = block

    def _block_of(self, seen: Seen, length: int) -> int:
        """Blocks never go back: masks that are left behind belong to what came before."""
        start = self._prompt_length
        commits = np.flatnonzero(self._committed(seen))
        # A call over all rows belongs to the block of its commits; if it has none, it is the first
        # of the block that the next call works on.
        for where in (_partial(seen.rows, seen), commits, _partial(seen.next_rows, seen)):
            if where.size and where.min() >= start:
                at = where.max() if where is commits else where.min()
                return max(self._block, (int(at) - start) // length)
        masks = np.flatnonzero(seen.before == self._mask_id)
        here = (masks - start) // length >= self._block
        return (int(masks[here].min()) - start) // length if here.any() else self._block

    def _changed(self, seen: Seen) -> np.ndarray:
        """Masks that the step filled, bool [L]."""
        return (seen.before == self._mask_id) & (seen.after != self._mask_id)

    def _committed(self, seen: Seen) -> np.ndarray:
        """The same without EOS that the loop wrote where the call had no scores."""
        fresh = np.isin(self._board.position, seen.scores.position)
        return self._changed(seen) & (fresh | (seen.after != self._eos_id))

    def _status(self, ids: np.ndarray) -> np.ndarray:
        """Status of every position, uint8 [L]."""
        status = np.where(self._given, _PROMPT, _COMMITTED)
        return np.where(ids == self._mask_id, _MASK, status).astype(np.uint8)

    def _status_after(self, seen: Seen) -> np.ndarray:
        """The same after the commit."""
        status = self._status(seen.after)
        status[self._changed(seen) & ~self._committed(seen)] = _FILLED
        return status

    def _write(self, scores: Scores) -> None:
        board, where = self._board, scores.position
        board.token[where] = scores.token
        board.confidence[where] = scores.confidence
        board.runner_up[where] = scores.runner_up
        board.runner_up_confidence[where] = scores.runner_up_confidence

    def _candidates(self, seen: Seen, stop: int) -> Candidates:
        """Masks with scores that are in the block or left of it, or were committed all the same."""
        board, committed = self._board, self._committed(seen)
        known = (seen.before == self._mask_id) & (board.token >= 0)
        known &= committed | (board.position < stop)
        position = np.flatnonzero(known).astype(np.int32)
        eligible = np.isin(position, seen.scores.position)
        confidence = board.confidence[position]
        return Candidates(
            position=position,
            token=board.token[position],
            confidence=confidence,
            runner_up=board.runner_up[position],
            runner_up_confidence=board.runner_up_confidence[position],
            rank=_rank(np.where(eligible, confidence, -np.inf)),
            bound=np.full(position.size, self._bound),
            age=(seen.forward - self._finished_at[position]).astype(np.int32),
            eligible=eligible,
            committed=committed[position],
        )


def _partial(rows: np.ndarray | None, seen: Seen) -> np.ndarray:
    """The rows of a call; none if they are the whole canvas, or if there was no call."""
    partial = rows is not None and rows.size < seen.before.size
    return rows if partial and rows is not None else np.zeros(0, np.int32)


def _age(at_L: np.ndarray, forward: int) -> np.ndarray:
    return np.where(at_L < 0, -1, forward - at_L).astype(np.int32)


def _rank(confidence: np.ndarray) -> np.ndarray:
    """0 for the most confident; equal confidence: lowest position first."""
    rank = np.empty(confidence.size, np.int32)
    rank[np.argsort(-confidence, kind="stable")] = np.arange(confidence.size, dtype=np.int32)
    return rank


def block_length_from_rows(rows: np.ndarray, prompt_length: int, length: int) -> int | None:
    """The block length that a partial call shows: its rows are one block and end before the canvas.

    Args:
        rows: int32 [N] positions of the call.
        prompt_length: where the first block starts.
        length: L.

    Returns:
        None if the rows do not tell: those of a prefix cache go on to the end.
    """
    whole_block = rows.size == np.ptp(rows) + 1 and rows.max() + 1 < length
    start = int(rows.min()) - prompt_length
    return rows.size if whole_block and start >= 0 and start % rows.size == 0 else None


def block_length_from_run(steps: Sequence[Seen], prompt_length: int, mask_id: int) -> int:
    """The block length of a whole run: from the starts of partial calls, else from the commits.

    A place where everything left of it was decoded while nothing right of it was may be the end of
    a block; the block length is the shortest of which every multiple is such a place.
    """
    length = steps[0].before.size
    new = length - prompt_length
    starts = [int(s.rows.min()) - prompt_length for s in steps if not s.whole]
    if any(start > 0 for start in starts):
        return math.gcd(*starts)
    if starts:
        return new
    ends = _possible_ends([s.after for s in steps], prompt_length, mask_id)
    for candidate in range(_SHORTEST, new):
        if ends.issuperset(range(candidate, new, candidate)):
            return candidate
    return new


def _possible_ends(
    canvases: Sequence[np.ndarray], prompt_length: int, mask_id: int
) -> frozenset[int]:
    """Offsets up to which a canvas was full, and empty from there on."""
    masked = [canvas[prompt_length:] == mask_id for canvas in canvases]
    ends = ((int(np.argmax(m)), m) for m in masked if m.any())
    return frozenset(end for end, m in ends if m[end:].all())
