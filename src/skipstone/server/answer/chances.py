"""Log-probabilities of the tokens of one answer, by the steps that committed them.

An observer of the request: only a request that asks for them has one.

Shape letters: M scored rows, V vocabulary, K tokens told beside each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from skipstone.engine import Result, Settings
from skipstone.engine.decoded import CanvasChange
from skipstone.engine.observe import StepView, Taps
from skipstone.models.load import Model

# OpenAI's number for a token that is too unlikely; JSON has no infinity.
LEAST = -9999.0


class Chances(NamedTuple):
    """How probable a token was, and which others were."""

    token: int
    logprob: float
    """Natural logarithm of its share in the softmax over all ids, before temperature."""
    top: tuple[tuple[int, float], ...]
    """The K most probable ids and the same of them, most probable first."""


class CommitChances:
    """Keeps, of each position, how probable tokens were when the one that stands was committed.

    A token that is committed by an older score, since its row was skipped, has the chances of that
    one: it is what the commit was decided by.
    """

    taps = Taps(logits=True)

    def __init__(self, count: int) -> None:
        """Nothing is committed yet; ``count`` is K."""
        self.committed = dict[int, Chances]()
        """By offset among the new tokens, of commits that stand."""
        self._count = count
        self._scored = dict[int, Chances]()
        self._mask_id = -1

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Which id is never told."""
        self._mask_id = model.config.mask_id

    def on_step(self, view: StepView) -> None:
        """Keep what was scored, and what of it was committed."""
        self._score(view)
        change = CanvasChange.between(view.before, view.after)
        for offset in (change.decided_BG | change.edited_BG)[0].nonzero()[0].tolist():
            self.committed[offset] = self._scored[offset]

    def on_end(self, results: Sequence[Result]) -> None:
        """All is kept already."""

    def _score(self, view: StepView) -> None:
        """Keep the chances of the rows that were scored afresh."""
        if view.scored is None or view.logits_NV is None:
            return
        at, board = view.context.only, view.board
        offset_M = torch.from_numpy(view.scored.position - at.prompt_length)
        offset_M = offset_M.to(board.token_BG.device)
        # Rows that skipped on a device that does not wait were computed, and score nothing.
        fresh_M = board.scored_at_BG[0, offset_M] == at.forward
        offset_M = offset_M[fresh_M]
        token_M = board.token_BG[0, offset_M]
        chances_MV = view.logits_NV[fresh_M].float().log_softmax(-1)
        own_M = chances_MV.gather(1, token_M[:, None])[:, 0]
        chances_MV[:, self._mask_id] = -torch.inf
        top = chances_MV.topk(min(self._count, chances_MV.shape[1] - 1))
        told = zip(
            offset_M.tolist(),
            token_M.tolist(),
            own_M.clamp(min=LEAST).tolist(),
            top.indices.tolist(),
            top.values.clamp(min=LEAST).tolist(),
            strict=True,
        )
        for offset, token, logprob, ids, logprobs in told:
            best = tuple(zip(ids, logprobs, strict=True))
            self._scored[offset] = Chances(token, logprob, best)
