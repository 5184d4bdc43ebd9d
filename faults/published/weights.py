"""Tiny models whose decisions vary; ours, so that an engine of ours can run the same weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from skipstone.models.base import ModelConfig
from skipstone.models.llada import LLADA
from skipstone.models.load import Model
from skipstone.testing import tiny_model

VOCAB = 160
MASK, EOS = VOCAB - 1, VOCAB - 2
LAYERS, HEADS, WIDTH = 4, 4, 48

# Sharp attention, so that it matters who sees whom; a sharp head, so that confidences spread.
_SCALES = {"q_proj": 1.8, "k_proj": 1.8, "v_proj": 1.4, "ff_out": 1.2}
_HEAD = 3.2


@cache
def tiny(seed: int, *, kv_heads: int = HEADS, ending: bool = False, sharp: bool = False) -> Model:
    """A random LLaDA in float32.

    Args:
        seed: of its weights.
        kv_heads: fewer than 4 are shared between heads.
        ending: whether it likes to end.
        sharp: whether it is so sure that confidences come close to 1.
    """
    config = ModelConfig(
        architecture=LLADA.name,
        width=WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        head_width=WIDTH // HEADS,
        num_kv_heads=kv_heads,
        mlp_width=80,
        vocab_size=VOCAB,
        max_length=256,
        rope_theta=10000.0,
        norm_eps=1e-5,
        tied_head=False,
        mask_id=MASK,
        eos_id=EOS,
    )
    made = tiny_model(seed, config=config, dtype=torch.float32)
    weights = made.network.published()
    head = LLADA.names.outer["head"]
    fill(weights, seed, head=head, ending=ending)
    if sharp:
        weights[head].mul_(4)
    return replace(made, name=f"tiny-{seed}")


def fill(weights: dict[str, Tensor], seed: int, *, head: str, ending: bool = False) -> None:
    """Fill weights by name with seeded noise; norms are not all 1, and no mask is predicted."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in weights.items():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim == 1:
                tensor.copy_(0.1 * noise if name.endswith("bias") else 1 + 0.2 * noise)
                continue
            scale = next((s for part, s in _SCALES.items() if part in name), 1.0)
            scale = _HEAD if name == head else scale
            tensor.copy_(noise * scale / tensor.shape[-1] ** 0.5)
        # A row of zeros never wins, so that every loop ends.
        weights[head][MASK] = 0
        if ending:
            weights[head][EOS] *= 1.9
