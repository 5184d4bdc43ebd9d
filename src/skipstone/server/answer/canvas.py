"""The canvas of one answer, step by step: what is decided, and what would stand at its masks.

An observer of the request: only a request that asks for it has one. Text is made of it when it is
sent.

Shape letters: G generation length, N positions told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from skipstone.canvas import Status
from skipstone.engine import Result, Settings
from skipstone.engine.decoded import CanvasChange
from skipstone.engine.observe import StepView, Taps
from skipstone.engine.request import Request
from skipstone.models.load import Model
from skipstone.server.answer.spelled import spelled
from skipstone.server.protocol.canvas import CanvasBegin, CanvasStep, CanvasToken
from skipstone.text import Text

_DIGITS = 4


class Drawn(NamedTuple):
    """Tokens at positions, and how probable they are."""

    offset_N: np.ndarray
    token_N: np.ndarray
    confidence_N: np.ndarray


class DrawnStep(NamedTuple):
    """A step as it was seen."""

    number: int
    block: int
    step: int
    committed: Drawn
    provisional: Drawn
    revoked: list[int]
    filled: list[int]


class CanvasWatch:
    """Sees each step, and keeps it until it is read."""

    taps = Taps()

    def __init__(self, text: Text) -> None:
        """Nothing is seen yet; ``text`` is the model's."""
        self._text = text
        self._seen = deque[DrawnStep]()
        self._told_token_G = np.zeros(0, np.int64)
        self._told_confidence_G = np.zeros(0)

    def begin(self, request: Request, limit: int) -> CanvasBegin:
        """How a canvas is laid out.

        Args:
            request: what is decoded.
            limit: tokens after which the answer is cut.
        """
        return CanvasBegin(
            prompt_length=len(request.prompt),
            length=len(request.region),
            limit=limit,
            block_length=request.settings.whole_block,
            blocks=[(block.start, block.stop) for block in request.blocks],
        )

    def take(self, number: int) -> CanvasStep:
        """The next step that was seen, which is this one of the request."""
        seen = self._seen.popleft()
        assert seen.number == number
        return CanvasStep(
            number=number,
            block=seen.block,
            step=seen.step,
            committed=self._tokens(seen.committed),
            provisional=self._tokens(seen.provisional),
            revoked=seen.revoked,
            filled=seen.filled,
        )

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Nothing is told of any position."""
        self._told_token_G = np.full(settings.gen_length, -1)
        self._told_confidence_G = np.full(settings.gen_length, -1.0)

    def on_step(self, view: StepView) -> None:
        """Keep what has changed."""
        at, board, after = view.context.only, view.board, view.after
        change = CanvasChange.between(view.before, view.after)
        status_G = after.status_BG[0]
        best_G = board.token_BG[0].cpu().numpy()
        confidence_G = board.confidence_BG[0].cpu().numpy().round(_DIGITS)
        # What was taken back was scored as a token, not as a mask.
        masked_G = (status_G == Status.MASK) & ~change.revoked_BG[0]
        masked_G &= board.scored_at_BG[0].cpu().numpy() >= 0
        masked_G[: at.block.start] = masked_G[at.block.stop :] = False
        masked_G &= (best_G != self._told_token_G) | (confidence_G != self._told_confidence_G)
        committed = np.flatnonzero((change.decided_BG | change.edited_BG)[0])
        self._told_token_G = np.where(masked_G, best_G, self._told_token_G)
        self._told_confidence_G = np.where(masked_G, confidence_G, self._told_confidence_G)
        # A mask again has no candidate until it is scored anew.
        self._told_token_G[change.revoked_BG[0]] = -1
        filled_G = (status_G == Status.FILLED) & (view.before.status_BG[0] != Status.FILLED)
        self._seen.append(
            DrawnStep(
                number=at.forward,
                block=at.block.index,
                step=at.step,
                committed=Drawn(committed, after.ids_BG[0, committed], confidence_G[committed]),
                provisional=Drawn(
                    np.flatnonzero(masked_G), best_G[masked_G], confidence_G[masked_G]
                ),
                revoked=np.flatnonzero(change.revoked_BG[0]).tolist(),
                filled=np.flatnonzero(filled_G).tolist(),
            )
        )

    def on_end(self, results: Sequence[Result]) -> None:
        """Whoever reads has all of it."""

    def _tokens(self, drawn: Drawn) -> list[CanvasToken]:
        told = zip(*(column.tolist() for column in drawn), strict=True)
        return [
            CanvasToken(
                position=offset,
                id=token,
                token=spelled(self._text, token)[0],
                confidence=confidence,
            )
            for offset, token, confidence in told
        ]
