"""Calls with a hidden prompt: they decide nothing themselves, but guide others by their logits.

Shape letters: N rows of the cache.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skipstone.foreign.attach.forward import Forward
from skipstone.foreign.attach.output import Unguided, unguided
from skipstone.foreign.rows.locate import Located
from skipstone.foreign.shared.caches import returned
from skipstone.foreign.shared.calls import Call


class HiddenPrompts:
    """Keeps the logits of such calls, and knows by its first keys a cache that one has made.

    A loop may hand on copies of it, so keys are compared by what they hold.
    """

    def __init__(self) -> None:
        """None was made yet."""
        self._keys: Tensor | None = None
        self.unguided: Unguided = []
        """Logits of a call that came before the one that they guide."""

    def scored(
        self,
        output: object,
        located: Located,
        done: Forward | None,
        start_BL: np.ndarray,
        mask_id: int,
    ) -> None:
        """Logits with a hidden prompt go with the call before or after that has the same canvas."""
        logits = unguided(output, located, mask_id)
        if done is not None and done.is_hidden_by(located, start_BL, mask_id):
            done.hide(logits)
        else:
            self.unguided = logits

    def taken(self) -> Unguided:
        """Those that wait for the call that they guide, which is this one."""
        waiting = self.unguided
        self.unguided = []
        return waiting

    def made(self, output: object) -> None:
        """A call with a hidden prompt has returned this."""
        pairs = returned(output)
        if pairs:
            self._keys = pairs[0][0].detach()

    def goes_on(self, call: Call) -> bool:
        """Whether a call goes on from such a cache."""
        old, pairs = self._keys, call.pairs
        if old is None or not pairs:
            return False
        new = pairs[0][0]
        if new.ndim != old.ndim or new.shape[:-2] != old.shape[:-2] or new.device != old.device:
            return False
        rows = min(new.shape[-2], old.shape[-2])
        return rows > 0 and torch.equal(new[..., :rows, :], old[..., :rows, :])
