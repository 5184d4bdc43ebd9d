"""A mixture of experts: each row goes through those that its router chooses.

The weights of all experts lie in one tensor a product, and files are read straight into its parts.

Shape letters: N packed rows, D width, X experts, M gate and up of an expert together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skipstone.models.base import MoEConfig
from skipstone.models.parts.linear import Linear
from skipstone.models.parts.mlp import MLP
from skipstone.ops.model import dispatch as ops


class MoE:
    """A router, its experts and, if there is one, an MLP that all rows share."""

    def __init__(
        self, config: MoEConfig, width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Allocate uninitialised weights.

        Args:
            config: of the mixture.
            width: D, of a state.
            dtype: of the weights.
            device: where they live.
        """
        count, hidden, self._router = config.num_experts, config.expert_width, config.router
        self.gate = Linear.empty(count, width, dtype, device)
        # Choices hang on it: it keeps the precision that it is published in.
        wide = torch.promote_types(dtype, torch.float32)
        self.bias_X = torch.empty(count, dtype=wide, device=device) if config.choice_bias else None
        self.gate_up_XMD = torch.empty(count, 2 * hidden, width, dtype=dtype, device=device)
        self.down_XDM = torch.empty(count, width, hidden, dtype=dtype, device=device)
        shared = config.shared_width
        self.shared = MLP(shared, width, dtype, device) if shared else None

    def route(self, normed_ND: Tensor, counts_N: Tensor | None = None) -> ops.Chosen:
        """The experts of each row; see ``added``."""
        logits_NX = ops.router_logits(normed_ND, self.gate.weight)
        return ops.choose(logits_NX, self.bias_X, self._router, counts_N)

    def added(self, x_ND: Tensor, normed_ND: Tensor, counts_N: Tensor | None = None) -> Tensor:
        """What it gives, added to the residual stream: [N, D].

        Args:
            x_ND: the residual stream.
            normed_ND: its norm.
            counts_N: bool, rows whose states count; None: all. A row that skips, and padding, must
                not make a card read experts that nobody else needs.
        """
        chosen = self.route(normed_ND, counts_N)
        if self.shared is not None:
            x_ND = self.shared.added(x_ND, normed_ND)
        return ops.experts_added(x_ND, normed_ND, chosen, self.gate_up_XMD, self.down_XDM)

    def places(self) -> dict[str, Tensor]:
        """Views of the weights by their place; those of experts are one tensor for all of them."""
        gates, ups = self.gate_up_XMD.chunk(2, dim=1)
        found = {"router": self.gate.weight}
        if self.bias_X is not None:
            found["router.bias"] = self.bias_X
        found |= {"experts.gate": gates, "experts.up": ups, "experts.down": self.down_XDM}
        if self.shared is not None:
            found |= {f"shared.{place}": w for place, w in self.shared.places().items()}
        return found
