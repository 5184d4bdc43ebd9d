"""From the forwards of a foreign loop to steps: which block, which step, what was committed.

A foreign loop tells nothing but its calls. What a step committed are the masks of its canvas that
are none in the canvas of the next call. Blocks come from a known block length, from the rows of
partial calls, or at the end from the order of the commits.

Shape letters: L canvas length, G new positions, N rows of a call, C scored masks.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from skipstone.foreign.attach.blocks import Blocks, lay_out
from skipstone.foreign.attach.offset import ScoreOffset
from skipstone.foreign.attach.seen import MaskScores, Seen
from skipstone.record import Candidates, StepRecord
from skipstone.record.deciding import number_after

_MASK, _COMMITTED, _FILLED, _PROMPT = 2, 3, 4, 1


class Assembler:
    """Turns the calls of one sample into step records, in order."""

    def __init__(
        self,
        canvas: np.ndarray,
        prompt_length: int,
        origin: int,
        mask_id: int,
        eos_id: int,
        bound: float,
        offset: ScoreOffset,
    ) -> None:
        """Start from the first canvas.

        Args:
            canvas: int64 [L].
            prompt_length: where new positions begin.
            origin: where blocks are counted from; what comes before belongs to the first.
            mask_id: the mask's id.
            eos_id: -1 if there is none.
            bound: confidence that the rule asks for; NaN if it is not known.
            offset: which row scores a position.
        """
        self._given = canvas != mask_id
        self._prompt_length, self._origin = prompt_length, origin
        self._mask_id, self._eos_id = mask_id, eos_id
        self._bound, self._offset = bound, offset
        self._entered_at = np.full(canvas.size, -1, np.int32)
        self._finished_at = np.full(canvas.size, -1, np.int32)
        self._board = _board(canvas.size)
        self._before: StepRecord | None = None
        self._block = 0
        self._rows = np.zeros(0, np.int32)
        """Of the call before."""

    @property
    def length(self) -> int:
        """L."""
        return self._given.size

    def grow(self, more: np.ndarray, prompt_length: int) -> None:
        """The canvas got longer by these ids; the prompt too, if they go on from it."""
        size = more.size
        self._origin += prompt_length - self._prompt_length
        self._prompt_length = prompt_length
        self._given = np.append(self._given, more != self._mask_id)
        self._entered_at = np.append(self._entered_at, np.full(size, -1, np.int32))
        self._finished_at = np.append(self._finished_at, np.full(size, -1, np.int32))
        old, new = self._board, _board(self.length)
        for name in ("token", "confidence", "runner_up", "runner_up_confidence"):
            getattr(new, name)[: old.position.size] = getattr(old, name)
        self._board = new

    def blocks(self, block_length: int, window: int | None) -> Blocks:
        """The blocks of the canvas as it is by now; ``window`` as in ``lay_out``."""
        masks = np.flatnonzero(~self._given)
        stop = int(masks[-1]) + 1 if masks.size else self.length
        return lay_out(self._prompt_length, self._origin, stop, block_length, window)

    def keeps_to(self, seen: Seen, block_length: int) -> bool | None:
        """Whether a call shows that the loop has blocks of a length; None if it shows nothing.

        A call of a part of the rows is made for a block. A commit behind the first block, which has
        masks still, is made without one.
        """
        if not seen.whole or (seen.next_rows is not None and seen.next_rows.size < self.length):
            return True
        seen = self._as_long(seen)
        _, stop = self.blocks(block_length, None).bounds(0)
        behind = np.flatnonzero(self._committed(seen))
        masked = (seen.after[self._prompt_length : stop] == self._mask_id).any()
        if behind.size and behind.max() >= stop:
            return not (seen.before[self._prompt_length : stop] == self._mask_id).any()
        return None if masked else True

    def record(self, seen: Seen, blocks: Blocks, others: int | None = None) -> StepRecord:
        """The step that a call was.

        ``others`` is the block that other samples of the batch are at, where this one shows none.
        """
        seen = self._as_long(seen)
        self._block = self._block_of(seen, blocks, others)
        self._entered_at[seen.rows] = seen.forward
        self._finished_at[seen.finished] = seen.forward
        self._write(seen.scores)
        self._rows = seen.rows
        start, stop = blocks.bounds(self._block)
        new = slice(self._prompt_length, None)
        record = StepRecord(
            forward=seen.forward,
            block=self._block,
            step=0,
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
        number = number_after(self._before, record)
        self._before = dataclasses.replace(record, step=number)
        return self._before

    def _as_long(self, seen: Seen) -> Seen:
        """A call whose canvas was shorter: what was not there yet had masks."""
        if seen.before.size == seen.after.size == self.length:
            return seen

        def padded(ids: np.ndarray) -> np.ndarray:
            return np.pad(ids, (0, self.length - ids.size), constant_values=self._mask_id)

        return dataclasses.replace(seen, before=padded(seen.before), after=padded(seen.after))

    def shown(self, seen: Seen, blocks: Blocks) -> int | None:
        """The block that a call shows by its rows or its commits; None if by neither."""
        seen = self._as_long(seen)
        commits = np.flatnonzero(self._committed(seen))
        if not seen.whole and seen.rows.size:
            return self._of_rows(seen.rows, seen.before, commits, blocks)
        if commits.size:
            return blocks.of(int(commits.max()))
        if seen.next_rows is not None and 0 < seen.next_rows.size < seen.before.size:
            if np.array_equal(seen.rows, self._rows):
                return self._block  # the block is done, and its keys are kept
            return self._of_rows(seen.next_rows, seen.after, commits, blocks)
        return None

    def _block_of(self, seen: Seen, blocks: Blocks, others: int | None) -> int:
        """Blocks never go back: masks that are left behind belong to what came before."""
        shown = self.shown(seen, blocks)
        if shown is None:
            shown = others
        if shown is None:
            masks = np.flatnonzero(seen.before == self._mask_id)
            here = [block for block in map(blocks.of, masks.tolist()) if block >= self._block]
            shown = min(here, default=self._block)
        return max(self._block, shown)

    def _of_rows(
        self, rows: np.ndarray, canvas: np.ndarray, committed: np.ndarray, blocks: Blocks
    ) -> int:
        """A partial call begins with its block, or ends with it, or its first mask is in it.

        Rows may begin before their block, as where logits are those of the next position.
        """
        first = int(rows.min())
        if first == 0:
            return blocks.of(int(rows.max()))
        masks = rows[canvas[rows] == self._mask_id]
        scored = first - self._offset.reach.score_offset
        at_first = blocks.of(scored)
        begins, ends = blocks.bounds(at_first)
        done = not ((masks >= begins) & (masks < ends)).any()
        if begins in (first, scored) and not (done and committed.size):
            return at_first
        return blocks.of(int(masks.min())) if masks.size else self._block

    def _changed(self, seen: Seen) -> np.ndarray:
        """Masks that the step filled, bool [L]."""
        return (seen.before == self._mask_id) & (seen.after != self._mask_id)

    def _committed(self, seen: Seen) -> np.ndarray:
        """The same without EOS that the loop wrote where the call had no scores."""
        return self._changed(seen) & (self._fresh(seen) | (seen.after != self._eos_id))

    def _fresh(self, seen: Seen) -> np.ndarray:
        """Positions that the call has scored, bool [L]."""
        fresh = np.zeros(self.length, bool)
        fresh[seen.scores.position] = True
        return fresh

    def _status(self, ids: np.ndarray) -> np.ndarray:
        """Status of every position, uint8 [L]."""
        status = np.where(self._given, _PROMPT, _COMMITTED)
        return np.where(ids == self._mask_id, _MASK, status).astype(np.uint8)

    def _status_after(self, seen: Seen) -> np.ndarray:
        """The same after the commit."""
        status = self._status(seen.after)
        status[self._changed(seen) & ~self._committed(seen)] = _FILLED
        return status

    def _write(self, scores: MaskScores) -> None:
        board, where = self._board, scores.position
        board.token[where] = scores.token
        board.confidence[where] = scores.confidence
        board.runner_up[where] = scores.runner_up
        board.runner_up_confidence[where] = scores.runner_up_confidence

    def _candidates(self, seen: Seen, stop: int) -> Candidates:
        """Masks with scores that are in the block or left of it, or were committed all the same."""
        board, committed = self._board, self._committed(seen)
        known = (seen.before == self._mask_id) & (board.token >= 0) & (board.position < stop)
        known |= committed
        position = np.flatnonzero(known).astype(np.int32)
        eligible = self._fresh(seen)[position]
        token, confidence = board.token[position], board.confidence[position]
        # A loop may take a token from the logits of another row, and no row of this call has its
        # confidence then.
        elsewhere = committed[position] & (token != seen.after[position])
        token = np.where(elsewhere, seen.after[position], token).astype(np.int32)
        confidence = np.where(elsewhere, np.nan, confidence)
        return Candidates(
            position=position,
            token=token,
            confidence=confidence,
            runner_up=board.runner_up[position],
            runner_up_confidence=board.runner_up_confidence[position],
            rank=_rank(np.where(eligible, confidence, -np.inf)),
            bound=np.full(position.size, self._bound),
            entropy=np.full(position.size, np.nan),
            drift=np.full(position.size, np.nan),
            age=(seen.forward - self._finished_at[self._offset.reach.row_of(position)]).astype(
                np.int32
            ),
            eligible=eligible,
            committed=committed[position],
        )


def _board(length: int) -> MaskScores:
    """Scores of every position, none of which is known."""
    return MaskScores(
        position=np.arange(length, dtype=np.int32),
        token=np.full(length, -1, np.int32),
        confidence=np.full(length, np.nan),
        runner_up=np.full(length, -1, np.int32),
        runner_up_confidence=np.full(length, np.nan),
    )


def _age(at_L: np.ndarray, forward: int) -> np.ndarray:
    return np.where(at_L < 0, -1, forward - at_L).astype(np.int32)


def _rank(confidence: np.ndarray) -> np.ndarray:
    """0 for the most confident; equal confidence: lowest position first."""
    rank = np.empty(confidence.size, np.int32)
    rank[np.argsort(-confidence, kind="stable")] = np.arange(confidence.size, dtype=np.int32)
    return rank
