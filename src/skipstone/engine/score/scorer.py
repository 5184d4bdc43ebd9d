"""From final states to scores: logits for the rows that need them, and what may be committed.

Shape letters: B requests, L canvas length, G generation length, N packed rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import Geometry, HostCanvas, Status, StepContext
from skipstone.engine.forward.interventions import Intervention
from skipstone.engine.forward.runner import Pass
from skipstone.engine.forward.shadow import Shadow
from skipstone.engine.observe import Board
from skipstone.engine.score.doubt import doubted
from skipstone.engine.score.drift import Distributions
from skipstone.engine.score.sampling import Sampling
from skipstone.engine.score.weighing import Weighing
from skipstone.engine.settings import Settings
from skipstone.models.base import Network
from skipstone.ops.decide import dispatch as ops
from skipstone.reach import Reach
from skipstone.rows import Rows, to_device
from skipstone.unmask import MaskLogits, Need, Scores

# Bounds the float64 copy of the logits: rows beyond this many bytes are scored in pieces.
_PIECE_BYTES = 256 << 20


class ScoredRows(NamedTuple):
    """What one step scored."""

    rows: Rows | None
    """Rows that got logits; None if there were none."""
    logits_NV: Tensor | None
    """Their logits, if somebody wants them."""


class Scorer:
    """Keeps the board: the latest token and confidence of every offset."""

    def __init__(self, network: Network, geometry: Geometry) -> None:
        """Start with nothing scored."""
        self.intervention: Intervention | None = None
        """May replace logits; None: nobody does."""
        self._network, self._reach = network, network.config.reach
        self._sampling = dict[int, Sampling]()
        shape = (geometry.batch, geometry.gen_length)
        zeros = torch.zeros(shape, dtype=torch.int64, device=geometry.device)
        empty = torch.full(shape, -torch.inf, dtype=torch.float64, device=geometry.device)
        self.board = Board(zeros, empty, zeros.clone(), empty.clone(), zeros - 1)
        self._distributions: Distributions | None = None
        self._ahead_BG: Tensor | None = None
        self._needs = [frozenset[Need]()] * geometry.batch
        self._foresees = [False] * geometry.batch

    def admit(self, slot: int, settings: Settings) -> None:
        """Know nothing of a request yet, and draw from the beginning.

        Args:
            slot: where it is.
            settings: how it samples, and by which scores its unmask policy chooses.
        """
        self._needs[slot] = needs = settings.unmask.needs
        if Need.ENTROPY in needs and self.board.entropy_BG is None:
            entropy_BG = torch.full_like(self.board.confidence_BG, torch.nan)
            self.board = replace(self.board, entropy_BG=entropy_BG)
        if Need.DRIFT in needs:
            self._begin_drift(slot)
        self._foresees[slot] = "confidence" in settings.cache.needs
        if self._foresees[slot] and self._ahead_BG is None:
            self._ahead_BG = torch.full_like(self.board.confidence_BG, -torch.inf)
        if self._ahead_BG is not None:
            self._ahead_BG[slot].fill_(-torch.inf)
        self.board.scored_at_BG[slot].fill_(-1)
        self.board.confidence_BG[slot].fill_(-torch.inf)
        self._sampling[slot] = Sampling.of(settings, self.board.token_BG.device)

    @property
    def confidence_BG(self) -> Tensor:
        """float64 [B, G]: the last confidence of each offset, -inf if none.

        Right of the block there are some only where a cache policy needs them. They are kept
        beside the board: what stands there is never committed.
        """
        board = self.board
        if self._ahead_BG is None:
            return board.confidence_BG
        return board.confidence_BG.where(board.scored_at_BG >= 0, self._ahead_BG)

    def _begin_drift(self, slot: int) -> None:
        """Know no distribution of a request yet."""
        if self._distributions is None:
            drift_BG = torch.full_like(self.board.confidence_BG, torch.nan)
            self.board = replace(self.board, drift_BG=drift_BG)
            self._distributions = Distributions(drift_BG, self._network.config.vocab_size)
        self._distributions.forget(slot)

    def score(
        self,
        done: Pass,
        context: StepContext,
        host: HostCanvas,
        *,
        weighing: Weighing | None,
        want_logits: bool,
    ) -> ScoredRows:
        """Score the finished rows that are masks of their block or left of it. Changes the board.

        Args:
            done: the forward.
            context: its step.
            host: the canvas before the step, or somewhat earlier: what has been filled meanwhile is
                scored in vain.
            weighing: policies that see the logits and may give others; None: none does.
            want_logits: keep those of the model.
        """
        if done.computed is None:
            return ScoredRows(None, None)
        # Nobody skips any more, so what may not skip needs no index on the device.
        computed = replace(done.computed, fresh_N=None)
        self._look_ahead(computed, done, context, host)
        spans = {at.slot: (0, at.block.stop) for at in context.requests}
        index, rows = _masked(computed, self._reach, context, host, spans)
        if index.size == 0:
            return ScoredRows(None, None)
        kept = [
            self._score_part(part, rows, index, done, context, weighing)
            for part in self._parts(rows)
        ]
        return ScoredRows(rows, torch.cat(kept) if want_logits else None)

    def _score_part(
        self,
        part: slice,
        rows: Rows,
        index: np.ndarray,
        done: Pass,
        context: StepContext,
        weighing: Weighing | None,
    ) -> Tensor:
        """Score a part of ``rows``, by those at ``index`` of the forward: their logits."""
        part_rows, index_2N = _part(part, rows, index)
        logits_NV = self._logits(done.x_ND[index_2N[0]])
        if self.intervention is not None:
            logits_NV = self.intervention.scoring(part_rows, logits_NV)
        weighed_NV = logits_NV
        if weighing is not None or self._distributions is not None:
            masks = self._masks(logits_NV, index_2N, done, context)
            self._move(part_rows, masks)
            weighed_NV = logits_NV if weighing is None else weighing.weigh(part_rows, masks)
        self._write(part_rows, weighed_NV, index_2N, done, context)
        return logits_NV

    def _look_ahead(
        self, computed: Rows, done: Pass, context: StepContext, host: HostCanvas
    ) -> None:
        """Keep what was computed right of the block, where a policy asks for it."""
        ahead = [
            at
            for at in context.requests
            if Need.DRIFT in self._needs[at.slot] or self._foresees[at.slot]
        ]
        if not ahead:
            return
        spans = {at.slot: (at.block.stop, context.canvas.gen_length) for at in ahead}
        index, rows = _masked(computed, self._reach, context, host, spans)
        for part in self._parts(rows):
            part_rows, index_2N = _part(part, rows, index)
            logits_NV = self._logits(done.x_ND[index_2N[0]])
            masks = self._masks(logits_NV, index_2N, done, context)
            self._move(part_rows, masks)
            self._foresee(part_rows, masks)

    def _foresee(self, rows: Rows, masks: MaskLogits) -> None:
        """Note how confident masks right of the block are, without noise."""
        mine = np.flatnonzero(np.array(self._foresees)[rows.request])
        if self._ahead_BG is None or not mine.size:
            return
        masks = masks.take(to_device(mine, rows.device))
        scored = ops.score(masks.logits_NV, masks.mask_id, None, cuts=self._cuts(rows.take(mine)))
        masks.keep(self._ahead_BG, scored.confidence_N.to(self._ahead_BG.dtype))

    def doubt(self, shadow: Shadow | None, context: StepContext) -> None:
        """Score committed tokens by where they are not seen. Changes the board.

        Args:
            shadow: of this step; None: nobody's.
            context: the step.
        """
        if shadow is None:
            return
        ids_BL, mask_id = context.canvas.ids_BL, self._network.config.mask_id
        rows = shadow.rows.take(shadow.doubted)
        for part in self._parts(rows):
            part_rows, index_2N = _part(part, rows, shadow.doubted)
            logits_NV = self._logits(shadow.x_ND[index_2N[0]])
            held_N = ids_BL[part_rows.request_N, part_rows.position_N]
            scored = doubted(logits_NV, held_N, mask_id, self._cuts(part_rows))
            tables = list(self.board.tables.values())[:5]
            ops.write_scores(tables, scored, shadow.rows, index_2N, None, context)

    def _move(self, rows: Rows, masks: MaskLogits) -> None:
        """Say how far distributions have moved, where a policy asks. Changes the board."""
        drift_BG = self.board.drift_BG
        if self._distributions is None or drift_BG is None:
            return
        asked = [slot for slot, needs in enumerate(self._needs) if Need.DRIFT in needs]
        mine = rows.of(asked)
        if not mine.all():
            masks = masks.take(to_device(np.flatnonzero(mine), rows.device))
        if mine.any():
            masks.keep(drift_BG, self._distributions.moved(masks))

    def _masks(
        self, logits_NV: Tensor, index_2N: Tensor, done: Pass, context: StepContext
    ) -> MaskLogits:
        """Logits with the places that they score, as policies see them."""
        assert done.computed is not None
        index_N, position_N = index_2N
        request_N = done.computed.request_N[index_N]
        return MaskLogits(
            logits_NV=logits_NV,
            request_N=request_N,
            offset_N=position_N - context.canvas.region_BG[request_N, 0],
            taken_N=None if done.kept_N is None else done.kept_N[index_N],
            mask_id=self._network.config.mask_id,
        )

    def _logits(self, x_ND: Tensor) -> Tensor:
        return self._network.head(self._network.final_norm(x_ND))

    def _parts(self, rows: Rows) -> Iterator[slice]:
        """Rows whose logits are made together: not too many, and of one kind of sampling."""
        most = max(1, _PIECE_BYTES // (8 * self._network.config.vocab_size))
        kinds = [self._sampling[request].kind for request in rows.requests]
        start = 0
        for _, group in groupby(zip(kinds, rows.counts, strict=True), key=lambda pair: pair[0]):
            stop = start + sum(count for _, count in group)
            for first in range(start, stop, most):
                yield slice(first, min(first + most, stop))
            start = stop

    def _write(
        self, rows: Rows, logits_NV: Tensor, index_2N: Tensor, done: Pass, context: StepContext
    ) -> None:
        """Score ``rows``; ``index_2N`` says by which of the forward. Changes the board."""
        assert done.computed is not None
        entropy = any(Need.ENTROPY in self._needs[slot] for slot in context.active)
        mask_id = self._network.config.mask_id
        noise_NV, cuts = self._noise(rows), self._cuts(rows)
        scored = ops.score(logits_NV, mask_id, noise_NV, entropy=entropy, cuts=cuts)
        # The rows of the forward are on the device; those of the scores need not be.
        tables = list(self.board.tables.values())[: 5 + entropy]
        ops.write_scores(tables, scored, done.computed, index_2N, done.kept_N, context)

    def _noise(self, rows: Rows) -> Tensor | None:
        """Gumbel noise, drawn for each request by its own generator."""
        vocab = self._network.config.vocab_size
        pairs = zip(rows.requests, rows.counts, strict=True)
        drawn = [self._sampling[request].noise(count, vocab) for request, count in pairs]
        noise = [noise_NV for noise_NV in drawn if noise_NV is not None]
        return torch.cat(noise) if noise else None

    def _cuts(self, rows: Rows) -> list[ops.Cut]:
        """Which tokens are possible, for each request in order; empty if all are for all."""
        pairs = zip(rows.requests, rows.counts, strict=True)
        cuts = [self._sampling[request].cut(count) for request, count in pairs]
        return [cut for cut in cuts if cut is not None]

    def eligible(
        self, done: Pass, rows: Rows, context: StepContext, *, old_may_lead: bool = True
    ) -> Scores:
        """What this step may commit: fresh scores, and an old one only if it is the best of all.

        A masked row that skipped keeps its old scores: it saw neither its new neighbours nor the
        new tokens, so it may not join others, but it may lead.
        """
        board = self.board
        leaves = (done.exits and old_may_lead) or done.named
        led_by = _scored_by(rows, self._reach, context) if leaves else None
        confidence_BG = ops.eligible(board.scored_at_BG, board.confidence_BG, led_by, context)
        margins = any(Need.MARGIN in self._needs[slot] for slot in context.active)
        margin_BG = board.confidence_BG - board.runner_up_confidence_BG if margins else None
        revises = any(at.revises for at in context.requests)
        revisable_BG = self._revisable(context) if revises else None
        return Scores(
            board.token_BG,
            confidence_BG,
            margin=margin_BG,
            entropy=board.entropy_BG,
            revisable=revisable_BG,
            drift=board.drift_BG,
        )

    def _revisable(self, context: StepContext) -> Tensor:
        """Confidence where committed tokens have fresh scores and may be replaced; else -inf."""
        revising, _ = context.split(lambda at: at.revises)
        status_BG = context.canvas.region(context.canvas.status_BL)
        fresh_BG = self.board.scored_at_BG == revising.forward_B1
        open_BG = (status_BG == Status.COMMITTED) & revising.block_BG & fresh_BG
        return self.board.confidence_BG.masked_fill(~open_BG, -torch.inf)


def _masked(
    rows: Rows,
    reach: Reach,
    context: StepContext,
    host: HostCanvas,
    spans: Mapping[int, tuple[int, int]],
) -> tuple[np.ndarray, Rows]:
    """What ``rows`` score that may be written, by slot from one offset up to another.

    Returns:
        By which rows, and where they write.
    """
    canvas = context.canvas
    start, stop = np.zeros((2, canvas.batch), np.int64)
    start[list(spans)], stop[list(spans)] = zip(*spans.values(), strict=True)
    index, position = reach.scored_by(rows.request, rows.position)
    request = rows.request[index]
    offset = position - np.array(canvas.prompt_lengths)[request]
    inside = (offset >= start[request]) & (offset < stop[request])
    status = host.status_BG[request, np.where(inside, offset, 0)]
    wanted = status == Status.MASK
    if any(at.revises for at in context.requests):
        first = np.full(canvas.batch, canvas.gen_length)
        first[list(context.active)] = [
            at.block.start if at.revises and not at.revokes else at.block.stop
            for at in context.requests
        ]
        wanted |= (status == Status.COMMITTED) & (offset >= first[request])
    found = np.flatnonzero(inside & wanted)
    return index[found], _at(rows.take(index[found]), position[found])


def _part(part: slice, rows: Rows, index: np.ndarray) -> tuple[Rows, Tensor]:
    """Some of ``rows``, and on the device, int64 [2, N]: their ``index``, and what they score."""
    whole = part == slice(0, rows.num_rows)
    part_rows = rows if whole else rows.take(np.arange(rows.num_rows)[part])
    return part_rows, to_device(np.stack([index[part], part_rows.position]), rows.device)


def _scored_by(rows: Rows, reach: Reach, context: StepContext) -> Rows:
    """All positions that ``rows`` score."""
    if reach.score_offset == 0:
        return rows
    index, position = reach.scored_by(rows.request, rows.position)
    canvas = context.canvas
    lengths = np.array([canvas.length_of(slot) for slot in range(canvas.batch)])
    found = np.flatnonzero(position < lengths[rows.request[index]])
    return _at(rows.take(index[found]), position[found])


def _at(rows: Rows, position: np.ndarray) -> Rows:
    """The same rows at other positions."""
    return rows if np.array_equal(rows.position, position) else replace(rows, position=position)
