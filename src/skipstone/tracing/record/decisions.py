"""What decided a step: one copy from device to host, and the records that follow from it.

Shape letters: B requests, L canvas length, G generation length, N judged rows, C candidates,
S compared layers, K columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import RequestStep, Status
from skipstone.engine.guarded import guarded
from skipstone.engine.observe import StepView
from skipstone.record import Candidates, Judgements, StepRecord
from skipstone.rows import Rows
from skipstone.skip import SkipScores
from skipstone.unmask import Need
from skipstone.unmask.recorded import scores_of


@dataclass(frozen=True, eq=False)
class Decisions:
    """Everything that decided a step, of all requests, on its way to the host."""

    view: StepView
    """Only what the host knows of it is read later: the next step overwrites its tensors."""
    columns: Tensor
    """int64, on the host: every column, one after the other; floats travel as their bits."""
    copied: torch.cuda.Event | None
    """When ``columns`` is filled; None if it is already."""

    @classmethod
    def copy(cls, view: StepView) -> Decisions:
        """Start the copy. This is all that the run waits for, so it does as little as it can."""
        packed = torch.cat([column.reshape(-1) for column in _columns(view)])
        columns, copied = packed.to("cpu", non_blocking=True), None
        if packed.is_cuda:
            copied = torch.cuda.Event(blocking=True)
            copied.record(torch.cuda.current_stream(packed.device))
        return cls(view, columns, copied)

    def records(self, seconds: float) -> Iterator[tuple[int, StepRecord]]:
        """The record of each request that took part; waits for the copy."""
        if self.copied is not None:
            self.copied.synchronize()
        board = _HostBoard.unpack(self.columns.numpy(), self.view)
        for at, policy in zip(self.view.context.requests, self.view.unmask, strict=True):
            record = _record(self, board, at, policy.needs, seconds)
            scores = scores_of(
                record, at.step_budget, at.block_length or at.block.length, suffix=at.suffix
            )
            with guarded(policy):
                bound_C = policy.bound(scores)
                if bound_C is not None:
                    record.candidates.bound[:] = bound_C
            yield at.sample, record


def _columns(view: StepView) -> list[Tensor]:
    """All columns as int64, in the order in which ``_HostBoard`` has them."""
    board, skip = view.board, view.skip
    columns = [
        board.token_BG,
        board.runner_up_BG,
        board.scored_at_BG,
        view.commit_BG.long(),
        board.confidence_BG.view(torch.int64),
        board.runner_up_confidence_BG.view(torch.int64),
        view.allowed_BG.view(torch.int64),
    ]
    columns += [asked_BG.view(torch.int64) for asked_BG in _asked_for(view).values()]
    if skip is not None:
        columns += [
            skip.similarity_SN.view(torch.int64),
            skip.smallest_N.view(torch.int64),
            skip.mean_N.view(torch.int64),
            skip.stable_N.long(),
            skip.forced_N.long(),
            skip.reference_position_N,
            skip.reference_forward_N,
        ]
    return columns


def _asked_for(view: StepView) -> dict[Need, Tensor]:
    """What is only scored where a policy asks for it, in the order of its columns."""
    board = view.board
    tables = {Need.ENTROPY: board.entropy_BG, Need.DRIFT: board.drift_BG}
    return {need: table_BG for need, table_BG in tables.items() if table_BG is not None}


@dataclass(frozen=True, eq=False)
class _HostBoard:
    """The columns again, after the copy."""

    scores_KBG: np.ndarray
    """int64: token, runner-up, scored at, committed; and, as the bits of float64, confidence, that
    of the runner-up, that which was allowed to count, and what a policy asked for."""
    judged_KN: np.ndarray
    """int64: the S similarities, smallest and mean, as the bits of float64; stable, forced,
    position and forward of the reference. Empty if nothing was judged."""

    @classmethod
    def unpack(cls, columns: np.ndarray, view: StepView) -> _HostBoard:
        batch, offsets = view.commit_BG.shape
        kinds = 7 + len(_asked_for(view))
        scores = kinds * batch * offsets
        judged = 1 if view.skip is None else view.skip.rows.num_rows
        return cls(
            columns[:scores].reshape(kinds, batch, offsets), columns[scores:].reshape(-1, judged)
        )


def _record(
    decisions: Decisions,
    board: _HostBoard,
    at: RequestStep,
    needs: frozenset[Need],
    seconds: float,
) -> StepRecord:
    view, request = decisions.view, at.slot
    length = at.prompt_length + view.context.canvas.gen_length
    at_2L = np.stack([view.entered_at_BL[request], view.finished_at_BL[request]])[:, :length]
    age_2L = np.where(at_2L < 0, -1, at.forward - at_2L).astype(np.int32)
    rows = _positions(view.rows, request)
    finished = rows if view.finished is view.rows else _positions(view.finished, request)
    skip_layers = view.skip_layers_N[view.rows.request == request].astype(np.int32)
    left = skip_layers[skip_layers > 0]
    parts_YN = view.layer_parts_YN
    if parts_YN is not None:
        parts_YN = parts_YN[:, view.rows.request == request]
    first_L = None
    if view.first_layers_BL is not None:
        first_L = view.first_layers_BL[request, :length].astype(np.int32)
    return StepRecord(
        forward=at.forward,
        block=at.block.index,
        step=at.step,
        recovery=view.recovery,
        refresh=request in view.rows.refreshed,
        block_start=at.start,
        block_stop=at.stop,
        ids_before=view.before.ids_BG[request].astype(np.int32),
        ids_after=view.after.ids_BG[request].astype(np.int32),
        status_before=view.before.status_BG[request].astype(np.uint8),
        status_after=view.after.status_BG[request].astype(np.uint8),
        rows=rows,
        finished=finished,
        entered_age=age_2L[0],
        finished_age=age_2L[1],
        candidates=_candidates(decisions, board, at, needs),
        judgements=_judgements(view.skip, board, request),
        skip_layer=int(left.min()) if left.size else 0,
        skip_layers=skip_layers if left.size else None,
        seconds=seconds,
        layer_parts=None if parts_YN is None or (parts_YN == 3).all() else parts_YN,
        first_layers=None if first_L is None or (first_L < 2).all() else first_L,
    )


def _positions(rows: Rows | None, request: int) -> np.ndarray:
    if rows is None:
        return np.empty(0, np.int32)
    return rows.position[rows.request == request].astype(np.int32)


def _candidates(
    decisions: Decisions, board: _HostBoard, at: RequestStep, needs: frozenset[Need]
) -> Candidates:
    """The masks that have scores in this block or left of it, in order of position.

    Of a policy that replaces tokens, what is committed in this block too.
    """
    view, request = decisions.view, at.slot
    scores_KG, status_G = board.scores_KBG[:, request], view.before.status_BG[request]
    masked_G = status_G == Status.MASK
    open_G = masked_G.copy()
    if at.revises:
        within = slice(at.block.start, at.block.stop)
        open_G[within] |= status_G[within] == Status.COMMITTED
    offset = np.flatnonzero((open_G & (scores_KG[2] >= 0))[: at.block.stop])
    scores_KC = scores_KG.take(offset, axis=1)
    counts_KC = scores_KC[:4].astype(np.int32)
    confidence_C, runner_up_C, allowed_C, *others = scores_KC[4:].view(np.float64)
    told = {n: own_C for n, own_C in zip(_asked_for(view), others, strict=True) if n in needs}
    nothing_C = np.full(offset.size, np.nan)
    allowed_G = scores_KG[6].view(np.float64)
    rank_C = _ranks(np.where(masked_G, allowed_G, -np.inf))[offset]
    return Candidates(
        position=(at.prompt_length + offset).astype(np.int32),
        token=counts_KC[0],
        confidence=confidence_C,
        runner_up=counts_KC[1],
        runner_up_confidence=runner_up_C,
        rank=rank_C,
        bound=np.full(offset.size, np.nan),
        entropy=told.get(Need.ENTROPY, nothing_C),
        drift=told.get(Need.DRIFT, nothing_C),
        age=at.forward - counts_KC[2],
        eligible=np.isfinite(allowed_C),
        committed=counts_KC[3].astype(bool),
    )


def _ranks(allowed_G: np.ndarray) -> np.ndarray:
    """int32 [G]: by the confidence that was allowed to count; ties: lowest position first."""
    rank_G = np.empty(allowed_G.size, np.int32)
    rank_G[np.argsort(-allowed_G, kind="stable")] = np.arange(allowed_G.size, dtype=np.int32)
    return rank_G


def _judgements(skip: SkipScores | None, board: _HostBoard, request: int) -> Judgements | None:
    if skip is None:
        return None
    mine = skip.rows.request == request
    judged_KN = board.judged_KN[:, mine]
    floats_KN, counts_4N = judged_KN[:-4].view(np.float64), judged_KN[-4:].astype(np.int32)
    return Judgements(
        position=skip.rows.position[mine].astype(np.int32),
        similarity=np.ascontiguousarray(floats_KN[:-2].T),
        smallest=floats_KN[-2],
        mean=floats_KN[-1],
        stable=counts_4N[0].astype(bool),
        forced=counts_4N[1].astype(bool),
        reference_position=counts_4N[2],
        reference_forward=counts_4N[3],
    )
