"""RMS normalisation.

Shape letters: N packed rows, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from skipstone.ops.model import dispatch as ops


@dataclass(frozen=True, eq=False, slots=True)
class RMSNorm:
    """Divides by the root mean square, in float32, and multiplies by a weight."""

    weight: Tensor
    """[D]"""
    eps: float

    @classmethod
    def empty(cls, width: int, eps: float, dtype: torch.dtype, device: torch.device) -> RMSNorm:
        """Uninitialised weights in their final dtype and place."""
        return cls(torch.empty(width, dtype=dtype, device=device), eps)

    def __call__(self, x_ND: Tensor) -> Tensor:
        """The same shape and dtype."""
        return ops.rms_norm(x_ND, self.weight, self.eps)
