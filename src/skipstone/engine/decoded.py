"""From the canvas before and after a step to what the step did to each request.

Shape letters: B requests, G generation length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipstone.canvas import HostCanvas, RequestStep, Status
from skipstone.engine.progress import RequestState
from skipstone.engine.told import DecodedStep


@dataclass(frozen=True, eq=False)
class CanvasChange:
    """Where a step changed the canvas."""

    decided_BG: np.ndarray
    """bool: masks that were committed."""
    edited_BG: np.ndarray
    """bool: committed tokens that were replaced."""
    revoked_BG: np.ndarray
    """bool: committed tokens that became masks again."""

    @classmethod
    def between(cls, before: HostCanvas, after: HostCanvas) -> CanvasChange:
        """What a step changed that found ``before`` and left ``after``."""
        committed_BG = after.status_BG == Status.COMMITTED
        held_BG = before.status_BG == Status.COMMITTED
        return cls(
            decided_BG=committed_BG & (before.status_BG == Status.MASK),
            edited_BG=committed_BG & held_BG & (after.ids_BG != before.ids_BG),
            revoked_BG=held_BG & (after.status_BG == Status.MASK),
        )


def decoded_step(
    state: RequestState, at: RequestStep, change: CanvasChange, after: HostCanvas, *, repeats: bool
) -> DecodedStep:
    """What a step did to one of its requests.

    Args:
        state: of the request; its statistics end with this step.
        at: its step.
        change: of all requests.
        after: the canvas after the step.
        repeats: the same step is taken once more, so nothing is final yet.
    """
    ids_G, decided_G = after.ids_BG[at.slot], change.decided_BG[at.slot]
    offsets = np.flatnonzero(decided_G | change.edited_BG[at.slot])
    final = np.flatnonzero(decided_G)
    if at.revises:
        final = final[:0] if repeats else _final(state, at, final, after)
    return DecodedStep(
        number=at.forward,
        stats=state.stats[-1],
        offsets_C=offsets,
        tokens_C=ids_G[offsets],
        revoked=tuple(np.flatnonzero(change.revoked_BG[at.slot]).tolist()),
        final_F=final,
        final_tokens_F=ids_G[final],
    )


def _final(
    state: RequestState, at: RequestStep, decided: np.ndarray, after: HostCanvas
) -> np.ndarray:
    """Offsets that are final with this step, where tokens of the block may be replaced until then.

    Args:
        state: a request whose policy revises.
        at: its step.
        decided: offsets that this step committed; those left of the block are never scored again.
        after: the canvas after it.
    """
    final = decided[decided < at.block.start]
    if not state.stays_in(at.block, after):
        status = after.status_BG[at.slot, at.block.start : at.block.stop]
        ended = np.flatnonzero(status == Status.COMMITTED) + at.block.start
        final = np.concatenate([final, ended])
    return final
