"""A linear map with optional bias and scale: every product of a model is one of these.

Shape letters: N packed rows, K inner width, O outputs, D width of the residual stream, M gate and
up together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from skipstone.models.parts.norm import RMSNorm
from skipstone.ops.model import dispatch as ops


@dataclass(frozen=True, eq=False, slots=True)
class Linear:
    """A weight, and what is done to its products: ``scale * (weight @ x) + bias``."""

    weight: Tensor
    """[O, K]"""
    bias: Tensor | None = None
    """[O]"""
    scale: Tensor | None = None
    """[O], of a quantised weight: what each output is to be multiplied by."""

    @classmethod
    def empty(
        cls,
        outputs: int,
        inputs: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        bias: bool = False,
    ) -> Linear:
        """Uninitialised weights in their final dtype and place."""
        weight = torch.empty(outputs, inputs, dtype=dtype, device=device)
        return cls(weight, torch.empty(outputs, dtype=dtype, device=device) if bias else None)

    def last(self, outputs: int) -> Linear:
        """A view of the last ``outputs`` of them alone."""
        parts = (None if part is None else part[-outputs:] for part in (self.bias, self.scale))
        return Linear(self.weight[-outputs:], *parts)

    def __call__(self, x_NK: Tensor) -> Tensor:
        """Products [N, O]."""
        return ops.linear(x_NK, self.weight, self.bias, self.scale)

    def swiglu(self, x_NK: Tensor) -> Tensor:
        """Gate and up, gated: [N, M/2]."""
        return ops.linear_swiglu(x_NK, self.weight, self.bias, self.scale)

    def added(self, x_ND: Tensor, input_NK: Tensor) -> Tensor:
        """Products added to the residual stream: [N, D]."""
        return ops.linear_add(x_ND, input_NK, self.weight, self.bias, self.scale)

    def added_and_normed(
        self, x_ND: Tensor, input_NK: Tensor, norm: RMSNorm
    ) -> tuple[Tensor, Tensor]:
        """Products added to the residual stream, and its norm: [N, D] each."""
        return ops.linear_add_rms_norm(
            x_ND, input_NK, self.weight, norm.weight, norm.eps, self.bias, self.scale
        )
