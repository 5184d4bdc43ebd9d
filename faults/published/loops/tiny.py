"""Small random models of published classes.

The row of the mask in the last matrix is zero, so that no mask is ever predicted; without that, a
random model leaves masks that a trained one does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

VOCABULARY, PAD, EOS, MASK = 120, 117, 118, 119
LLADA = {
    "d_model": 32,
    "n_heads": 4,
    "n_kv_heads": 4,
    "n_layers": 3,
    "mlp_hidden_size": 64,
    "vocab_size": VOCABULARY,
    "embedding_size": VOCABULARY,
    "mask_token_id": MASK,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "block_type": "llama",
    "rope": True,
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "weight_tying": False,
    "init_device": "cpu",
    "attention_dropout": 0.0,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
    "max_sequence_length": 128,
}
"""Configuration of the LLaDA classes."""
DREAM = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "mask_token_id": MASK,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": 1,
}
"""Configuration of the Dream classes."""
QWEN = {**DREAM, "attn_implementation": "sdpa", "head_dim": 8}
"""Configuration of classes that are made from Qwen."""


@dataclass(frozen=True)
class Tokenizer:
    """As much of one as samplers ask for."""

    mask_token_id: int = MASK
    bos_token_id: int = 1
    eos_token_id: int = EOS
    pad_token_id: int = PAD


def weights(
    model: Any, dtype: torch.dtype = torch.float32, *, eos: bool = False, spread: float = 0.5
) -> nn.Module:
    """Random weights from a fixed seed; without ``eos`` the end is never predicted either."""
    generator = torch.Generator().manual_seed(3)
    rows = [MASK, PAD] if eos else [MASK, PAD, EOS]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                last = name.endswith(("ff_out.weight", "lm_head.weight"))
                wide = spread if last and parameter.shape[0] == VOCABULARY else 0.25
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * wide)
                if last and parameter.shape[0] == VOCABULARY:
                    parameter[rows] = 0.0
    return model.to(dtype).eval()


def prompts(*lengths: int) -> list[list[int]]:
    """Prompts of these lengths."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(2, 110, (n,), generator=generator).tolist() for n in lengths]


def padded(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts with padding before them, int64 [B, P], and what is no padding."""
    longest = max(lengths)
    ids = torch.full((len(lengths), longest), PAD)
    for row, prompt in zip(ids, prompts(*lengths), strict=True):
        row[longest - len(prompt) :] = torch.tensor(prompt)
    return ids, (ids != PAD).long()
