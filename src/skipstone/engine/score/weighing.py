"""Unmask policies that see the logits of a step, and may give others to choose by.

Shape letters: N masks, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from skipstone.engine.guarded import Failed, checked_logits, noting
from skipstone.engine.sessions import Served
from skipstone.rows import Rows, to_device
from skipstone.unmask import MaskLogits, UnmaskPolicy, WeighingSession


class Weighing:
    """The sessions of one step that asked for the logits of their requests."""

    def __init__(
        self, asked: Sequence[Served[UnmaskPolicy, WeighingSession]], failed: Failed
    ) -> None:
        """Take them.

        Args:
            asked: policy, session and requests.
            failed: takes the errors of sessions; their requests keep the logits of the model.
        """
        self._asked, self._failed = asked, failed

    def weigh(self, rows: Rows, masks: MaskLogits) -> Tensor:
        """The logits to choose by, [N, V].

        Args:
            rows: N, on the host the same as ``masks``.
            masks: as the model scored them.
        """
        weighed_NV = masks.logits_NV
        for served in self._asked:
            mine = rows.of(served.context.active)
            if mine.all():
                return self._of(served, masks)
            if mine.any():
                index_M = to_device(np.flatnonzero(mine), rows.device)
                new_MV = self._of(served, masks.take(index_M))
                # What the others have in half precision has all of its bits in single.
                weighed_NV = weighed_NV.to(new_MV.dtype).index_copy(0, index_M, new_MV)
        return weighed_NV

    def _of(self, served: Served[UnmaskPolicy, WeighingSession], masks: MaskLogits) -> Tensor:
        with noting(self._failed, served.policy, served.context.active):
            weighed_NV = served.session.weigh(masks, served.context)
            return checked_logits(served.policy, weighed_NV, masks.logits_NV)
        return masks.logits_NV
