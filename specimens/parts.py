"""What the three styles share: the norm, the rotation, the weights.

Shape letters: B batch, L rows, D width, E head width; ``...`` for heads, wherever they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skipstone.models.load import Model
from skipstone.models.parts.decoder import Decoder


class RMSNorm(nn.Module):
    """RMS normalisation in float32 or better."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def angles(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine [..., E] in float32 of positions [...]."""
    exponent = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
    angle = positions[..., None].float() / theta ** exponent.to(positions.device)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of every head in float32 or better."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


def weights(model: Model) -> dict[str, Tensor]:
    """The weights under their published names, without the common prefix."""
    network = model.network
    assert isinstance(network, Decoder)
    named = {k.removeprefix("model.transformer."): v for k, v in network.published().items()}
    named.setdefault("ff_out.weight", named["wte.weight"])
    return {name: tensor.clone() for name, tensor in named.items()}


def frozen(net: nn.Module, named: dict[str, Tensor], like: Model) -> None:
    """Load weights into ``net``, in the dtype and place of ``like``, for inference."""
    net.to(device=like.network.device, dtype=like.network.dtype)
    net.load_state_dict(named)
    net.requires_grad_(False).eval()
