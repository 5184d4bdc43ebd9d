"""What one call scores: its masks, in each reading that commits may still show, and all logits.

Shape letters: C batch of the call, N rows of the call, L canvas length, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skipstone.foreign.attach.kept import KeptScores
from skipstone.foreign.attach.offset import ScoreOffset
from skipstone.foreign.attach.output import Unguided, rows_kept
from skipstone.foreign.attach.scoring import NO_SCORES, Scoring, ScoringRows
from skipstone.foreign.attach.seen import MaskScores
from skipstone.foreign.attach.snapshot import Snapshot
from skipstone.foreign.rows.guidance import Samples
from skipstone.record import Tap, TensorKey


class CallScores:
    """Takes the logits of one call, sample by sample."""

    def __init__(
        self,
        forward: int,
        layers: int,
        samples: Samples,
        offset: ScoreOffset,
        scores: Snapshot,
        tensors: Snapshot | None,
    ) -> None:
        """No logits yet.

        Args:
            forward: number of the call.
            layers: of the model.
            samples: those that the call computes.
            offset: which readings are looked at.
            scores: carries what masks score.
            tensors: carries logits; None if they are not wanted.
        """
        self._forward, self._layers = forward, layers
        self._samples, self._offset = samples, offset
        self._scores, self._tensors = scores, tensors
        self._found = dict[tuple[int, int], Scoring]()
        """By sample and offset."""

    def take(
        self,
        b: int,
        logits_CNV: Tensor,
        rows_N: np.ndarray,
        ids_N: np.ndarray,
        canvas_L: np.ndarray,
        mask_id: int,
    ) -> list[KeptScores]:
        """Score the masks of one sample, from a copy: the loop may write into its logits.

        Args:
            b: of the sample.
            logits_CNV: of the whole batch.
            rows_N: where the rows stand.
            ids_N: what was given for them.
            canvas_L: of the sample.
            mask_id: of the masks.

        Returns:
            Its logits, if they are wanted.
        """
        logits_NV, masks = logits_CNV[int(self._samples.chosen[b])], list[np.ndarray]()
        for reach in self._offset.readings:
            scoring = ScoringRows.of(reach, rows_N, ids_N, canvas_L, mask_id)
            row = scoring.row[scoring.masks]
            if row.size:
                logits_CV = logits_NV[torch.from_numpy(row).to(logits_NV.device)]
                self._found[b, reach.score_offset] = Scoring(
                    scoring.position[scoring.masks], logits_CV, mask_id, self._scores
                )
                masks.append(row)
        if self._tensors is None or not masks:
            return []
        kept, hidden = np.unique(np.concatenate(masks)), self._samples.hidden
        parts = [self._kept(Tap.LOGITS, logits_NV, rows_N, kept, canvas_L.size)]
        if hidden is not None:
            unguided_NV = logits_CNV[int(hidden[b])]
            parts.append(self._kept(Tap.UNGUIDED, unguided_NV, rows_N, kept, canvas_L.size))
        return parts

    def guided_by(self, unguided: Unguided, length: int) -> list[KeptScores]:
        """Logits of a call with the same canvas but for its prompt, for each sample."""
        key = TensorKey(self._forward, Tap.UNGUIDED, self._layers)
        return [KeptScores(key, rows, length, copy, self._offset) for rows, copy in unguided]

    def scores(
        self, b: int, after: np.ndarray, mask_id: int
    ) -> tuple[MaskScores, MaskScores | None]:
        """Of one sample, once its canvas after the commit is known; with the other reading."""
        readings = [
            NO_SCORES if found is None else found.as_committed(after, mask_id)
            for reach in self._offset.readings
            for found in (self._found.get((b, reach.score_offset)),)
        ]
        return readings[0], readings[1] if len(readings) > 1 else None

    def _kept(
        self, tap: Tap, logits_NV: Tensor, rows_N: np.ndarray, masks: np.ndarray, length: int
    ) -> KeptScores:
        assert self._tensors is not None
        kept = rows_kept(logits_NV, masks)
        if some := kept.size != logits_NV.shape[0]:
            logits_NV = logits_NV[torch.from_numpy(kept).to(logits_NV.device)]
        copy = self._tensors.take(logits_NV, own=some)
        key = TensorKey(self._forward, tap, self._layers)
        return KeptScores(key, rows_N[kept], length, copy, self._offset)
