"""The gated MLP of a layer.

Shape letters: N packed rows, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skipstone.models.parts.linear import Linear


class MLP:
    """``down(silu(gate x) * up x)``; gate and up are one product."""

    def __init__(self, hidden: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate uninitialised weights.

        Args:
            hidden: width between the products.
            width: D, of a state.
            dtype: of the weights.
            device: where they live.
        """
        self.gate_up = Linear.empty(2 * hidden, width, dtype, device)
        self.down = Linear.empty(width, hidden, dtype, device)

    def added(self, x_ND: Tensor, normed_ND: Tensor, counts_N: Tensor | None = None) -> Tensor:
        """What it gives, added to the residual stream: [N, D].

        All rows are computed, whichever of them count (``counts_N``): the weights are read anyway.
        """
        return self.down.added(x_ND, self.gate_up.swiglu(normed_ND))

    def places(self) -> dict[str, Tensor]:
        """Views of the weights by their place."""
        gate, up = self.gate_up.weight.chunk(2)
        return {"gate": gate, "up": up, "gate_up": self.gate_up.weight, "down": self.down.weight}
