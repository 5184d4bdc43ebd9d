"""Attention that one function computes.

Shape letters: C batch of the call, H query heads, G heads of keys and values, N rows, K keys,
W width of a head.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor

from skipstone.foreign.attention.call import Attention
from skipstone.foreign.shared.functions import Operation

# Whatever stands under this name in torch.nn.functional now: this is what computes.
_FUSED: object = torch._C._nn.scaled_dot_product_attention


def is_fused(func: object) -> bool:
    """Whether a function is torch's own attention."""
    return func is _FUSED


def fused(operation: Operation) -> Attention | None:
    """A call of torch's own attention."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, operation.args, strict=False)), **operation.kwargs}
    query, key, value, out = given["query"], given["key"], given["value"], operation.out
    if not (_with_heads(query) and _with_heads(key) and _with_heads(value) and _with_heads(out)):
        return None
    mask, scale = given.get("attn_mask"), given.get("scale")
    return Attention(
        query_CHNW=query,
        key_CGKW=key,
        value_CGKW=value,
        mask=mask if isinstance(mask, Tensor) else None,
        causal=bool(given.get("is_causal", False)),
        scale=float(scale) if isinstance(scale, (int, float)) else query.shape[-1] ** -0.5,
        drops=_dropped(given.get("dropout_p")),
        mixed_CHNW=out,
    )


def _with_heads(x: object) -> TypeGuard[Tensor]:
    return isinstance(x, Tensor) and x.dim() == 4


def _dropped(share: object) -> float:
    return float(share) if isinstance(share, (int, float)) else 0.0
