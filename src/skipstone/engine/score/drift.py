"""How far distributions move from one time to the next that they are computed.

Shape letters: B requests, G generation length, N masks, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skipstone.unmask import MaskLogits

# In both logarithms, as KLASS has it (github.com/shkim0116/KLASS): zero is as good as this.
_TINY = 1e-12


class Distributions:
    """The last distribution of every offset; 4 B of memory for each number of them."""

    def __init__(self, like_BG: Tensor, vocab_size: int) -> None:
        """None yet: they are zero."""
        self._before_BGV = torch.zeros(*like_BG.shape, vocab_size, device=like_BG.device)

    def forget(self, request: int) -> None:
        """Nothing was computed yet of the request in a slot."""
        self._before_BGV[request].zero_()

    def moved(self, masks: MaskLogits) -> Tensor:
        """Kullback-Leibler divergence of each from the one before, in nats: float64 [N].

        The new ones take the place of the old ones.
        """
        now_NV = masks.logits_NV.float().softmax(-1)
        ratio_NV = (now_NV + _TINY).log() - (masks.at(self._before_BGV) + _TINY).log()
        masks.keep(self._before_BGV, now_NV)
        return (now_NV * ratio_NV).sum(-1, dtype=torch.float64)
