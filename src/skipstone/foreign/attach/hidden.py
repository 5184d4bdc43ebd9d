"""Caches of hidden prompts: calls that go on from one decide nothing, as the one that made it.

Shape letters: N rows of the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skipstone.foreign.shared.caches import returned
from skipstone.foreign.shared.calls import Call


class HiddenPrompts:
    """Knows by its first keys a cache that a call with a hidden prompt has made.

    A loop may hand on copies of it, so keys are compared by what they hold.
    """

    def __init__(self) -> None:
        """None was made yet."""
        self._keys: Tensor | None = None

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
