"""Hears what attention is given within a layer, and what it gives.

Shape letters: C batch of the call, H query heads, G heads of keys and values, N rows, K keys,
W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from skipstone.foreign.shared.compiled import at_work, push, take_off
from skipstone.foreign.shared.functions import Functions, Operation
from skipstone.foreign.shared.guard import Guard

# Whatever stands under this name in torch.nn.functional now: this is what computes.
_FUSED: object = torch._C._nn.scaled_dot_product_attention


@dataclass(frozen=True, eq=False)
class Attention:
    """One call of attention."""

    query_CHNW: Tensor
    key_CGKW: Tensor
    value_CGKW: Tensor
    mask: Tensor | None
    """Added to the scores, or true where a key is seen; [..., N, K]."""
    causal: bool
    scale: float
    drops: float
    """Share of the weights that it was asked to drop at random."""
    mixed_CHNW: Tensor


class Listening:
    """Hears attention while a layer is under way, and nothing else."""

    def __init__(self, guard: Guard) -> None:
        """No layer is under way."""
        self.mode = Functions(guard, (self,))
        self.mode.away = True
        self._calls = list[Attention]()
        self._dynamo: Callable[[], object] = at_work()

    def enter(self) -> None:
        """A layer begins."""
        self._calls.clear()
        # What Dynamo is compiling must not see a mode.
        if self.mode.away and not self._dynamo():
            push([self.mode])
            self.mode.away = False

    def leave(self) -> Attention | None:
        """A layer is done; the attention within it, unless there was none or several."""
        self.stop()
        calls, self._calls = self._calls, list[Attention]()
        return calls[0] if len(calls) == 1 else None

    def stop(self) -> None:
        """No layer is under way any more."""
        if not self.mode.away:
            take_off(self.mode)
            self.mode.away = True

    def heard(self, operation: Operation) -> None:
        """A function within a layer was called."""
        if operation.func is _FUSED:
            found = _fused(operation)
            if found is not None:
                self._calls.append(found)


def _with_heads(x: object) -> TypeGuard[Tensor]:
    return isinstance(x, Tensor) and x.dim() == 4


def _fused(operation: Operation) -> Attention | None:
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


def _dropped(share: object) -> float:
    return float(share) if isinstance(share, (int, float)) else 0.0
