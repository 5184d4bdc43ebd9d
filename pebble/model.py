"""The network of LLaDA in a compact form for training; its names are those of the checkpoints.

Shape letters: B batch, L length, D width of the residual stream, H heads, R width of one head,
P half of R, V vocabulary, M masked positions of a batch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

INIT_STD = 0.02


@dataclass(frozen=True)
class Shape:
    """The sizes of the network."""

    width: int = 192
    heads: int = 6
    layers: int = 32
    hidden: int = 512
    vocab: int = 2048
    max_length: int = 512
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5


class RMSNorm(nn.Module):
    """Root mean square norm: computed in fp32, cast back, then weighted."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    @override
    def forward(self, stream_BLD: Tensor) -> Tensor:
        """Norm every position by itself."""
        wide_BLD = stream_BLD.float()
        scale_BL1 = torch.rsqrt(wide_BLD.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide_BLD * scale_BL1).to(stream_BLD.dtype) * self.weight.to(stream_BLD.dtype)


class Block(nn.Module):
    """One layer: full attention and a gated MLP, each added to the residual stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attn_norm = RMSNorm(shape.width, shape.norm_eps)
        self.ff_norm = RMSNorm(shape.width, shape.norm_eps)
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_out = nn.Linear(shape.width, shape.width, bias=False)
        self.ff_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ff_out = nn.Linear(shape.hidden, shape.width, bias=False)

    @override
    def forward(self, stream_BLD: Tensor, cos_LP: Tensor, sin_LP: Tensor) -> Tensor:
        """Apply the layer; every position attends to every position."""
        normed_BLD = self.attn_norm(stream_BLD)
        query_BHLR = rotate(self._split(self.q_proj(normed_BLD)), cos_LP, sin_LP)
        key_BHLR = rotate(self._split(self.k_proj(normed_BLD)), cos_LP, sin_LP)
        value_BHLR = self._split(self.v_proj(normed_BLD))
        mixed_BHLR = F.scaled_dot_product_attention(query_BHLR, key_BHLR, value_BHLR)
        stream_BLD = stream_BLD + self.attn_out(mixed_BHLR.transpose(1, 2).flatten(2))
        normed_BLD = self.ff_norm(stream_BLD)
        gated = F.silu(self.ff_proj(normed_BLD)) * self.up_proj(normed_BLD)
        return stream_BLD + self.ff_out(gated)

    def _split(self, flat_BLD: Tensor) -> Tensor:
        return flat_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Transformer(nn.Module):
    """Embedding, layers, last norm and head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.wte = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.ln_f = RMSNorm(shape.width, shape.norm_eps)
        self.ff_out = nn.Linear(shape.width, shape.vocab, bias=False)


class Body(nn.Module):
    """Only here because the published names begin with `model.transformer`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.transformer = Transformer(shape)


class Pebble(nn.Module):
    """The whole network; `forward` stops before the head so that few logits need be made."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self._initialize()

    @override
    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Give the normed last stream of every position."""
        transformer = self.model.transformer
        stream_BLD = transformer.wte(tokens_BL)
        # The stream has the type it will have when the finished model decodes in bf16.
        if torch.is_autocast_enabled(tokens_BL.device.type):
            stream_BLD = stream_BLD.to(torch.get_autocast_dtype(tokens_BL.device.type))
        cos_LP, sin_LP = rotary_table(self.shape, tokens_BL.shape[1], tokens_BL.device)
        for block in transformer.blocks:
            stream_BLD = block(stream_BLD, cos_LP, sin_LP)
        return transformer.ln_f(stream_BLD)

    def logits(self, stream_MD: Tensor) -> Tensor:
        """Score the whole vocabulary at the chosen positions."""
        return self.model.transformer.ff_out(stream_MD)

    def compile_blocks(self) -> None:
        """Compile the layers, which share one graph for each length of batch."""
        for block in self.model.transformer.blocks:
            block.compile(dynamic=False)

    def _initialize(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=INIT_STD)
        # Each layer adds twice to the stream; the sum over all layers is to stay of order one.
        residual_std = INIT_STD / math.sqrt(2 * self.shape.layers)
        for block in self.model.transformer.blocks:
            assert isinstance(block, Block)
            nn.init.normal_(block.attn_out.weight, std=residual_std)
            nn.init.normal_(block.ff_out.weight, std=residual_std)


def rotary_table(shape: Shape, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, in fp32."""
    head = shape.width // shape.heads
    exponent_P = torch.arange(0, head, 2, device=device, dtype=torch.float32) / head
    speed_P = 1.0 / shape.rope_theta**exponent_P
    position_L = torch.arange(length, device=device, dtype=torch.float32)
    angle_LP = torch.outer(position_L, speed_P)
    return angle_LP.cos(), angle_LP.sin()


def rotate(head_BHLR: Tensor, cos_LP: Tensor, sin_LP: Tensor) -> Tensor:
    """Turn queries or keys by their positions; the two halves of a head are the coordinates."""
    first_BHLP, second_BHLP = head_BHLR.float().chunk(2, dim=-1)
    turned = (
        first_BHLP * cos_LP - second_BHLP * sin_LP,
        second_BHLP * cos_LP + first_BHLP * sin_LP,
    )
    return torch.cat(turned, dim=-1).to(head_BHLR.dtype)
