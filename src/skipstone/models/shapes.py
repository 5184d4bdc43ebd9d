"""Shapes of published models, for those who ask before they download."""

from __future__ import annotations

from skipstone.models.base import ModelConfig
from skipstone.models.llada import LLADA

LLADA_8B = ModelConfig(
    architecture=LLADA.name,
    width=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_width=128,
    mlp_width=12288,
    vocab_size=126464,
    max_length=4096,
    rope_theta=500000.0,
    norm_eps=1e-5,
    tied_head=False,
    mask_id=126336,
    eos_id=126081,
)
"""LLaDA-8B Base, Instruct and 1.5."""

SHAPES = {"llada-8b": LLADA_8B}
