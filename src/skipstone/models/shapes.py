"""Shapes of published models, for those who ask before they download."""

from __future__ import annotations

from skipstone.models.base import ModelConfig, MoEConfig
from skipstone.models.dream import DREAM
from skipstone.models.llada import LLADA
from skipstone.models.llada2 import LLADA2
from skipstone.models.llada_moe import LLADA_MOE
from skipstone.models.sdar import SDAR
from skipstone.ops.model.reference_experts import Router
from skipstone.reach import Reach

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

DREAM_7B = ModelConfig(
    architecture=DREAM.name,
    width=3584,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    head_width=128,
    mlp_width=18944,
    vocab_size=152064,
    max_length=131072,
    rope_theta=1000000.0,
    norm_eps=1e-6,
    tied_head=False,
    mask_id=151666,
    eos_id=151643,
    qkv_bias=True,
    reach=Reach(score_offset=-1),
)
"""Dream-7B Base and Instruct, Dream-Coder and DiffuCoder."""

SDAR_8B = ModelConfig(
    architecture=SDAR.name,
    width=4096,
    num_layers=36,
    num_heads=32,
    num_kv_heads=8,
    head_width=128,
    mlp_width=12288,
    vocab_size=151936,
    max_length=32768,
    rope_theta=1000000.0,
    norm_eps=1e-6,
    tied_head=False,
    mask_id=151669,
    eos_id=151643,
    qk_norm=True,
    reach=Reach(block_size=4),
)
"""SDAR-8B-Chat and TraDo-8B; a ``block_length`` takes the place of the blocks of 4."""

LLADA_MOE_7B = ModelConfig(
    architecture=LLADA_MOE.name,
    width=2048,
    num_layers=16,
    num_heads=16,
    num_kv_heads=16,
    head_width=128,
    mlp_width=1024,
    vocab_size=157184,
    max_length=8192,
    rope_theta=50000.0,
    norm_eps=1e-5,
    tied_head=False,
    mask_id=156895,
    eos_id=156892,
    rounds_rotation=True,
    qk_norm=True,
    moe=MoEConfig(num_experts=64, expert_width=1024, router=Router(8, "softmax")),
)
"""LLaDA-MoE-7B-A1B Base and Instruct."""

LLADA2_MINI = ModelConfig(
    architecture=LLADA2.name,
    width=2048,
    num_layers=20,
    num_heads=16,
    num_kv_heads=4,
    head_width=128,
    mlp_width=5120,
    vocab_size=157184,
    max_length=32768,
    rope_theta=600000.0,
    norm_eps=1e-6,
    tied_head=False,
    mask_id=156895,
    eos_id=156892,
    rotary_share=0.5,
    rounds_rotation=True,
    qk_norm=True,
    reach=Reach(block_size=32),
    moe=MoEConfig(
        num_experts=256,
        expert_width=512,
        router=Router(8, "sigmoid", normalised=True, scale=2.5, groups=8, top_groups=4),
        choice_bias=True,
        shared_width=512,
        first_layer=1,
    ),
)
"""LLaDA2.0-mini and 2.1-mini, at the length of 2.1."""

SHAPES = {
    "llada-8b": LLADA_8B,
    "dream-7b": DREAM_7B,
    "sdar-8b": SDAR_8B,
    "llada-moe": LLADA_MOE_7B,
    "llada2-mini": LLADA2_MINI,
}
"""By the name that ``bench`` and ``roofline`` take."""
