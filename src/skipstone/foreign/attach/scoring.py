"""What the masks of one call would commit, computed where the logits are.

Shape letters: V vocabulary, C rows that are masks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skipstone.foreign.attach.seen import MaskScores
from skipstone.foreign.attach.snapshot import Snapshot
from skipstone.reach import Reach

# Bounds the float64 copy of the logits: rows beyond this many bytes are scored in pieces.
_PIECE_BYTES = 256 << 20

NO_SCORES = MaskScores(*(np.empty(0, t) for t in (np.int32, np.int32, float, np.int32, float)))
"""Of a call without masks."""


class ScoringRows(NamedTuple):
    """Which rows of a call score which positions, ascending."""

    row: np.ndarray
    """int64: the row among those of the logits."""
    position: np.ndarray
    """int32: the position that it scores."""
    masks: np.ndarray
    """int64: which of these positions are masks, ascending by position."""

    @classmethod
    def of(
        cls, reach: Reach, rows_N: np.ndarray, ids_N: np.ndarray, canvas_L: np.ndarray, mask_id: int
    ) -> ScoringRows:
        """Look at one sample of a call.

        Args:
            reach: which position a row scores.
            rows_N: where the rows stand.
            ids_N: what was given for them.
            canvas_L: what stands where no row of this call does.
            mask_id: the mask's id.
        """
        if reach.score_offset == 0:
            masks = np.flatnonzero(ids_N == mask_id)
            masks = masks[np.argsort(rows_N[masks], kind="stable")]
            return cls(np.arange(rows_N.size), rows_N, masks)
        row, position = reach.scored_by(np.zeros_like(rows_N), rows_N)
        inside = position < canvas_L.size
        row, position = row[inside], position[inside]
        return cls(row, position, np.flatnonzero(canvas_L[position] == mask_id))


class Scoring:
    """Scores of the masks of one sample, on their way to the host."""

    def __init__(
        self, position: np.ndarray, logits_CV: Tensor, mask_id: int, snapshot: Snapshot
    ) -> None:
        """Score them, in float64 as the engine decides it.

        Args:
            position: int32 [C], ascending.
            logits_CV: a copy of our own.
            mask_id: never a score of its own.
            snapshot: of the call, which carries them over.
        """
        self._position, self._logits_CV = position, logits_CV
        piece = max(1, _PIECE_BYTES // (8 * logits_CV.shape[-1]))
        parts = [_scored(part, mask_id) for part in logits_CV.split(piece)]
        self._copy = snapshot.take(parts[0] if len(parts) == 1 else torch.cat(parts, 1), own=True)

    def as_committed(self, after: np.ndarray, mask_id: int) -> MaskScores:
        """The scores with the tokens that the loop took, where these are not the most probable.

        Args:
            after: int64 [L], the canvas after the step.
            mask_id: the mask's id.
        """
        token, confidence, runner_up, second = self._copy.array().copy()
        taken = after[self._position]
        odd = np.flatnonzero((taken != mask_id) & (taken != token))
        if odd.size:
            # The best token is now the runner-up of the one that was taken.
            runner_up[odd], second[odd] = token[odd], confidence[odd]
            token[odd] = taken[odd]
            confidence[odd] = self._probability(odd, taken[odd])
        return MaskScores(
            self._position, token.astype(np.int32), confidence, runner_up.astype(np.int32), second
        )

    def _probability(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Of one token of each of some rows."""
        logits = self._logits_CV[torch.from_numpy(rows).to(self._logits_CV.device)]
        logits = logits.to(torch.float64, copy=True)
        return logits.softmax(-1).cpu().numpy()[np.arange(rows.size), tokens]


def _scored(logits_CV: Tensor, mask_id: int) -> Tensor:
    """Token, confidence, runner-up and its confidence, float64 [4, C].

    As the reference scores, in fewer passes: the two best are found in the model's own dtype.
    Widening keeps order and equality, so they are the same two; equal ones: the lowest id first.
    """
    left_CV = logits_CV.clone()
    left_CV[:, mask_id] = -torch.inf
    best_C1, token_C1 = left_CV.max(-1, keepdim=True)
    second_C1, runner_up_C1 = left_CV.scatter_(-1, token_C1, -torch.inf).max(-1, keepdim=True)
    # The mask is never taken, yet has its share of the sum.
    origin_C1 = torch.maximum(best_C1, logits_CV[:, mask_id, None]).double()
    share_CV = logits_CV.to(torch.float64, copy=True).sub_(origin_C1).exp_()
    total_C1 = share_CV.sum(-1, keepdim=True)
    first_C1, other_C1 = (
        (best.double() - origin_C1).exp() / total_C1 for best in (best_C1, second_C1)
    )
    columns = token_C1.double(), first_C1, runner_up_C1.double(), other_C1
    return torch.cat(columns, dim=1).T
