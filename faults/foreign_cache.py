"""What can be wrong with a foreign cache and the rotation beside it: other rows, layers, angles.

Shape letters: B batch (1), R rows, T cached positions, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import cast

import torch.nn.functional as F
from torch import Tensor

from faults.engine.instead import Fault, instead
from specimens import bare, hf_style, llada_style
from specimens.llada_style import LLaDABlock, LLaDAModel, LLaDAModelLM
from specimens.parts import angles, rotate

KeyValue = tuple[Tensor, Tensor]


# --- rotation -------------------------------------------------------------------------------------


@contextmanager
def queries_turned_short() -> Generator[None]:
    """``llada``: in cached steps queries are rotated for the position before their own."""
    attention = LLaDABlock._attention

    def wrong(
        self: LLaDABlock, q: Tensor, k: Tensor, v: Tensor, replace_position: Tensor | None
    ) -> Tensor:
        # Only queries look at where the rows are; keys are rotated over the whole canvas.
        before = None if replace_position is None else replace_position.roll(-1, 1)
        return attention(self, q, k, v, before)

    with instead(LLaDABlock, "_attention", wrong):
        yield


@contextmanager
def rows_turned_short() -> Generator[None]:
    """``hf``: in cached steps queries and keys are rotated for the position before their own."""

    def wrong(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
        late = int(positions.min()) > 0
        return angles(positions - 1 if late else positions, head_width, theta)

    with instead(hf_style, "angles", wrong):
        yield


@contextmanager
def queries_turned_in_every_step() -> Generator[None]:
    """``bare``: queries are rotated for the position before their own."""

    def mix(self: bare.Slab, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (self.heads + 2 * self.kv_heads, -1)).permute(0, 2, 1, 3)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        before = (cos.roll(1, -2), sin.roll(1, -2))
        before[0][0], before[1][0] = cos[1], -sin[1]
        out = F.scaled_dot_product_attention(
            rotate(q, *before), rotate(k, cos, sin), v, enable_gqa=True
        )
        return self.out(out.permute(0, 2, 1, 3).flatten(2))

    with instead(bare.Slab, "mix", mix):
        yield


# --- what is written ------------------------------------------------------------------------------


@contextmanager
def values_not_written() -> Generator[None]:
    """``llada``: cached steps write their keys, and not their values."""

    def wrong(
        self: LLaDABlock, k: Tensor, v: Tensor, past: KeyValue, replace_position: Tensor | None
    ) -> KeyValue:
        assert replace_position is not None
        past[0][:, :, replace_position[0].nonzero().squeeze(-1)] = k
        return past

    with instead(LLaDABlock, "_cached", wrong):
        yield


@contextmanager
def written_one_row_off() -> Generator[None]:
    """``llada``: cached steps write the row before their own."""
    cached = LLaDABlock._cached

    def wrong(
        self: LLaDABlock, k: Tensor, v: Tensor, past: KeyValue, replace_position: Tensor | None
    ) -> KeyValue:
        assert replace_position is not None
        return cached(self, k, v, past, replace_position.roll(-1, 1))

    with instead(LLaDABlock, "_cached", wrong):
        yield


# --- what is read ---------------------------------------------------------------------------------


def _after_a_whole_call(change: Callable[[list[KeyValue]], list[KeyValue]]) -> Fault:
    """Change the cache that a call over the whole canvas gives back, in both styles that keep one.

    Args:
        change: of the keys and values of every layer.
    """

    @contextmanager
    def fault() -> Generator[None]:
        llada, hf = LLaDAModel.forward, hf_style.HFModelForMaskedLM.forward

        @wraps(llada)
        def wrong_llada(self: LLaDAModel, *args: object) -> object:
            logits, cache, states = cast("Callable[..., tuple[object, ...]]", llada)(self, *args)
            if args[1] is None:
                cache = change(cast("list[KeyValue]", cache))
            return logits, cache, states

        @wraps(hf)
        def wrong_hf(
            self: hf_style.HFModelForMaskedLM, *args: Tensor, **kwargs: object
        ) -> hf_style.HFOutput:
            out = cast("Callable[..., hf_style.HFOutput]", hf)(self, *args, **kwargs)
            if out.past_key_values is not None and kwargs.get("past_key_values") is None:
                out.past_key_values = tuple(change(list(out.past_key_values)))
            return out

        with (
            instead(LLaDAModel, "forward", wrong_llada),
            instead(hf_style.HFModelForMaskedLM, "forward", wrong_hf),
        ):
            yield

    return fault


def _swap_layers(cache: list[KeyValue]) -> list[KeyValue]:
    return [cache[0], cache[2], cache[1], *cache[3:]]


layers_swapped = _after_a_whole_call(_swap_layers)
"""Layers 2 and 3 read each other's cache."""
keys_and_values_swapped = _after_a_whole_call(lambda cache: [(v, k) for k, v in cache])
"""What is handed on as keys are the values, and the other way round."""
rows_rolled = _after_a_whole_call(lambda cache: [(k.roll(1, 2), v.roll(1, 2)) for k, v in cache])
"""Every row of the cache holds the one before it."""


# --- the token skip -------------------------------------------------------------------------------


@contextmanager
def reference_never_renewed() -> Generator[None]:
    """``llada``: rows are compared with their states of the last refresh, and keep these."""
    forward = LLaDAModelLM.forward
    kept = dict[int, object]()

    @wraps(forward)
    def wrong(self: LLaDAModelLM, input_ids: Tensor, **kwargs: object) -> llada_style.Output:
        if kwargs.get("prev_hidden") is not None:
            kept.setdefault(id(self), kwargs["prev_hidden"])
            kwargs["prev_hidden"] = kept[id(self)]
        else:
            kept.pop(id(self), None)
        return cast("Callable[..., llada_style.Output]", forward)(self, input_ids, **kwargs)

    with instead(LLaDAModelLM, "forward", wrong):
        yield
