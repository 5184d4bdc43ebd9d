"""A step as one of its requests would see it if nobody else were decoded.

What an observer of one request is shown is a batch of one: the request is in slot 0, and all that
is addressed by slot, offset or position is cut down to it. So whoever watches a request need not
know who is beside it, nor that there are slots. Tables and rows are cut, not copied.

Shape letters: B requests, L canvas length, G generation length, N packed rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from skipstone.cache import CachePolicy
from skipstone.canvas import Canvas, HostCanvas, RequestStep, StepContext
from skipstone.engine.observe import Board, StepView, TappedStates, Taps
from skipstone.rows import Rows
from skipstone.skip import SkipScores
from skipstone.unmask import Need, UnmaskPolicy


def alone(view: StepView, at: RequestStep, taps: Taps) -> StepView:
    """What a step is to one of the requests that took part.

    Args:
        view: of the whole step.
        at: the step of the request.
        taps: what its observer wants; the step may have been tapped for others, too.
    """
    canvas = view.context.canvas
    seen = _Cut(at.slot, canvas.length_of(at.slot), canvas.gen_lengths[at.slot])
    index = view.context.requests.index(at)
    cache, unmask = view.cache[index], view.unmask[index]
    parts_YN, first_BL = view.layer_parts_YN, view.first_layers_BL
    rows, scored = _of(view.rows, at.slot), _of(view.scored, at.slot)
    assert rows is not None
    logits_NV = view.logits_NV if taps.logits and scored is not None else None
    return replace(
        view,
        context=_context(view.context, at, seen),
        before=seen.host(view.before),
        after=seen.host(view.after),
        commit_BG=seen.region(view.commit_BG),
        allowed_BG=seen.region(view.allowed_BG),
        cache=(cache,),
        unmask=(unmask,),
        board=_board(view.board, unmask, seen),
        rows=rows.rows,
        finished=None if (finished := _of(view.finished, at.slot)) is None else finished.rows,
        # Alone, nobody would have asked the policy.
        skip=None if at.slot in view.whole else _skip(view.skip, at.slot),
        whole=(0,) if at.slot in view.whole else (),
        skip_layers_N=view.skip_layers_N[rows.index],
        layer_parts_YN=None if parts_YN is None else parts_YN[:, rows.index],
        first_layers_BL=None if first_BL is None else seen.noted(first_BL),
        visible_YBL=_visible(view, at, cache, seen),
        entered_at_BL=seen.noted(view.entered_at_BL),
        finished_at_BL=seen.noted(view.finished_at_BL),
        states=_states(view.states, at.slot, taps),
        scored=None if scored is None else scored.rows,
        logits_NV=None if logits_NV is None or scored is None else logits_NV[scored.index],
    )


class _Cut(NamedTuple):
    """What of tables is one request's."""

    slot: int
    length: int
    """Its positions."""
    gen_length: int
    """Its new ones."""

    def whole(self, table_BL: Tensor) -> Tensor:
        """[1, L] of [B, L]."""
        return table_BL[self.slot : self.slot + 1, : self.length]

    def noted(self, table_BL: np.ndarray) -> np.ndarray:
        """[1, L] of [B, L], on the host."""
        return table_BL[self.slot : self.slot + 1, : self.length]

    def region(self, table_BG: Tensor) -> Tensor:
        """[1, G] of [B, G]."""
        return table_BG[self.slot : self.slot + 1, : self.gen_length]

    def host(self, host: HostCanvas) -> HostCanvas:
        """The same on the host."""
        mine = np.s_[self.slot : self.slot + 1, : self.gen_length]
        return HostCanvas(host.ids_BG[mine], host.status_BG[mine])


class _Own(NamedTuple):
    """Rows of one request, and which of all they are."""

    rows: Rows
    index: slice


def _of(rows: Rows | None, slot: int) -> _Own | None:
    """The rows of one request, as those of slot 0; None if it has none."""
    if rows is None:
        return None
    # They are sorted by request.
    start, stop = np.searchsorted(rows.request, [slot, slot + 1]).tolist()
    if start == stop:
        return None
    mine = slice(start, stop)
    own = replace(
        rows,
        requests=(0,),
        counts=(stop - start,),
        request=np.zeros(stop - start, np.int64),
        position=rows.position[mine],
        horizon=rows.horizon[mine],
        base=rows.base[mine],
        refreshed=(0,) if slot in rows.refreshed else (),
        fresh_N=None if rows.fresh_N is None else rows.fresh_N[mine],
        writes_N=None if rows.writes_N is None else rows.writes_N[mine],
    )
    return _Own(own, mine)


def _context(context: StepContext, at: RequestStep, seen: _Cut) -> StepContext:
    canvas, confidence_BG = context.canvas, context.confidence_BG
    return StepContext(
        canvas=Canvas(
            ids_BL=seen.whole(canvas.ids_BL),
            status_BL=seen.whole(canvas.status_BL),
            region_BG=seen.region(canvas.region_BG),
            stop_BK=canvas.stop_BK[at.slot : at.slot + 1],
            prompt_lengths=[canvas.prompt_lengths[at.slot]],
            gen_lengths=[seen.gen_length],
        ),
        requests=(replace(at, slot=0),),
        committed_BL=seen.whole(context.committed_BL),
        host=seen.host(context.host),
        confidence_BG=None if confidence_BG is None else seen.region(confidence_BG),
    )


def _board(board: Board, policy: UnmaskPolicy, seen: _Cut) -> Board:
    """Of what only some policies ask for, what this one asked for."""
    own = Board(**{name: seen.region(table_BG) for name, table_BG in board.tables.items()})
    return replace(
        own,
        entropy_BG=own.entropy_BG if Need.ENTROPY in policy.needs else None,
        drift_BG=own.drift_BG if Need.DRIFT in policy.needs else None,
    )


def _visible(view: StepView, at: RequestStep, cache: CachePolicy, seen: _Cut) -> Tensor | None:
    """What its rows saw, if its own policy was asked, which it is not of a refresh."""
    asked = not view.recovery and at.slot not in view.rows.refreshed
    if view.visible_YBL is None or not asked or "keys" not in cache.needs:
        return None
    return view.visible_YBL[:, at.slot : at.slot + 1, : seen.length]


def _skip(skip: SkipScores | None, slot: int) -> SkipScores | None:
    own = None if skip is None else _of(skip.rows, slot)
    if skip is None or own is None:
        return None
    return SkipScores(
        rows=own.rows,
        similarity_SN=skip.similarity_SN[:, own.index],
        smallest_N=skip.smallest_N[own.index],
        mean_N=skip.mean_N[own.index],
        stable_N=skip.stable_N[own.index],
        forced_N=skip.forced_N[own.index],
        reference_position_N=skip.reference_position_N[own.index],
        reference_forward_N=skip.reference_forward_N[own.index],
    )


def _states(states: dict[int, TappedStates], slot: int, taps: Taps) -> dict[int, TappedStates]:
    """Of the layers that are wanted, those that rows of the request reached."""
    found = dict[int, TappedStates]()
    for layer in sorted(states.keys() & set(taps.states)):
        own = _of(states[layer].rows, slot)
        if own is not None:
            found[layer] = TappedStates(own.rows, states[layer].x_ND[own.index])
    return found
