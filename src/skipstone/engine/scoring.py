"""From final states to scores: logits for the rows that need them, and what may be committed.

Shape letters: B requests, L canvas length, G generation length, N packed rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import Canvas, Geometry, HostCanvas, Moment, Status
from skipstone.engine.observe import Board
from skipstone.engine.runner import Pass
from skipstone.models.base import Network
from skipstone.ops import dispatch as ops
from skipstone.rows import Rows, to_device, write_at
from skipstone.unmask import Scores
from skipstone.unmask.policies import rank_BG

# Bounds the float64 copy of the logits: rows beyond this many bytes are scored in pieces.
_PIECE_BYTES = 256 << 20


class Scored(NamedTuple):
    """What one step scored."""

    rows: Rows | None
    """Rows that got logits; None if there were none."""
    logits_NV: Tensor | None
    """Their logits, if somebody wants them."""


class Scorer:
    """Keeps the board: the latest token and confidence of every offset."""

    def __init__(self, network: Network, geometry: Geometry, temperature: float) -> None:
        """Start with nothing scored."""
        self._network = network
        self._temperature = temperature
        self._generators = [
            torch.Generator(geometry.device).manual_seed(seed) for seed in geometry.seeds
        ]
        shape = (geometry.batch, geometry.gen_length)
        zeros = torch.zeros(shape, dtype=torch.int64, device=geometry.device)
        empty = torch.full(shape, -torch.inf, dtype=torch.float64, device=geometry.device)
        self.board = Board(zeros, empty, zeros.clone(), empty.clone(), zeros - 1)

    def score(self, done: Pass, moment: Moment, host: HostCanvas, *, want_logits: bool) -> Scored:
        """Score the finished rows that are masks of this block or left of it. Changes the board."""
        if done.finished is None:
            return Scored(None, None)
        index = _undecided(done.finished, moment, host)
        if index.size == 0:
            return Scored(None, None)
        rows = done.finished.take(index)
        index_N = to_device(index, rows.device)
        kept = list[Tensor]()
        for part in self._parts(rows.num_rows):
            part_rows = rows.take(np.arange(rows.num_rows)[part])
            logits_NV = self._logits(done.x_ND[index_N[part]])
            self._write(part_rows, logits_NV, moment)
            if want_logits:
                kept.append(logits_NV)
        return Scored(rows, torch.cat(kept) if want_logits else None)

    def score_foreseen(self, done: Pass, moment: Moment, count: int) -> Scored:
        """The same rows, found on the device: the host only knows how many there are."""
        rows = done.finished
        assert rows is not None
        canvas = moment.canvas
        status_N = canvas.status_BL[rows.request_N, rows.position_N]
        offset_N = rows.position_N - canvas.region_BG[rows.request_N, 0]
        undecided_N = (status_N == Status.MASK) & (offset_N < moment.block.stop)
        index_N = undecided_N.byte().argsort(descending=True, stable=True)[:count]
        for part in self._parts(count):
            part_N = index_N[part]
            logits_NV = self._logits(done.x_ND[part_N])
            scored = ops.score(logits_NV, self._network.config.mask_id, None)
            self._note(scored, (rows.request_N[part_N], offset_N[part_N]), moment)
        return Scored(None, None)

    def _logits(self, x_ND: Tensor) -> Tensor:
        return self._network.head(self._network.final_norm(x_ND))

    def _parts(self, num_rows: int) -> Iterator[slice]:
        """Rows whose logits are made together."""
        most = max(1, _PIECE_BYTES // (8 * self._network.config.vocab_size))
        for first in range(0, num_rows, most):
            yield slice(first, min(first + most, num_rows))

    def _write(self, rows: Rows, logits_NV: Tensor, moment: Moment) -> None:
        scored = ops.score(logits_NV, self._network.config.mask_id, self._noise(rows))
        offset = rows.position - np.array(moment.canvas.prompt_lengths)[rows.request]
        self._note(scored, (rows.request_N, to_device(offset, rows.device)), moment)

    def _note(self, scored: ops.Scored, where: tuple[Tensor, Tensor], moment: Moment) -> None:
        """Put scores on the board, at requests and offsets."""
        board = self.board
        board.token_BG[where] = scored.token_N
        board.confidence_BG[where] = scored.confidence_N
        board.runner_up_BG[where] = scored.runner_up_N
        board.runner_up_confidence_BG[where] = scored.runner_up_confidence_N
        write_at(board.scored_at_BG, where, moment.forward)

    def _noise(self, rows: Rows) -> Tensor | None:
        """Gumbel noise times temperature, drawn for each request by its own generator."""
        if self._temperature == 0:
            return None
        vocab = self._network.config.vocab_size
        uniform = [
            torch.rand(
                (count, vocab),
                generator=self._generators[request],
                dtype=torch.float64,
                device=rows.device,
            )
            for request, count in zip(rows.requests, rows.counts, strict=True)
        ]
        return -self._temperature * torch.log(-torch.log(torch.cat(uniform)))

    def eligible(self, done: Pass, rows: Rows, moment: Moment) -> Scores:
        """What this step may commit: fresh scores, and an old one only if it is the best of all.

        A masked row that skipped keeps its old scores: it saw neither its new neighbours nor the
        new tokens, so it may not join others, but it may lead.
        """
        board, canvas = self.board, moment.canvas
        masked_BG = canvas.masked_BG()
        fresh_BG = masked_BG & (board.scored_at_BG == moment.forward)
        allowed_BG = fresh_BG
        if done.finished is not rows:
            candidate_BG = masked_BG & canvas.region(rows.mark(canvas.ids_BL))
            all_BG = board.confidence_BG.masked_fill(~candidate_BG, -torch.inf)
            allowed_BG = fresh_BG | (candidate_BG & (rank_BG(all_BG) == 0))
        confidence_BG = board.confidence_BG.masked_fill(~allowed_BG, -torch.inf)
        return Scores(board.token_BG, confidence_BG)


def _undecided(rows: Rows, moment: Moment, host: HostCanvas) -> np.ndarray:
    """Which of ``rows`` stand on a mask that this block may commit."""
    canvas: Canvas = moment.canvas
    offset = rows.position - np.array(canvas.prompt_lengths)[rows.request]
    inside = (offset >= 0) & (offset < moment.block.stop)
    status = host.status_BG[rows.request, np.where(inside, offset, 0)]
    return np.flatnonzero(inside & (status == Status.MASK))
