"""Loops for models that score a position by the row before, or see block by block.

All take one prompt [1, P], commit the most confident masks of their block, and return the canvas.

Shape letters: L canvas length, R rows of a call, T keys.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from specimens.decode import blocks, choose, start_canvas
from specimens.qwen_style import KeyValue, QwenModel

ShiftFault = Literal["none", "forgotten", "forgotten in the block"]
"""``forgotten``: a position is scored by its own row; or only in cached steps."""

HorizonFault = Literal["none", "block before", "causal", "tail hidden", "one too far", "whole"]
"""Who sees whom: rows do not see their own block but for themselves; only what stands left of them;
not the end of the prompt that is in their block; the block after theirs, too; or all of the window.
"""

WriteFault = Literal["none", "left out", "early", "cut short"]
"""What only writes keys and values: a finished block is not stored; or before its last commit, so
that a mask is; or the last block of the prompt is never computed."""


def shifted(logits: Tensor) -> Tensor:
    """Row p of what comes out scores position p."""
    return torch.cat([logits[:, :1], logits[:, :-1]], dim=1)


@torch.no_grad()
def dream(
    model: QwenModel,
    prompt: Tensor,
    *,
    gen_length: int = 16,
    a_step: int = 2,
    fault: ShiftFault = "none",
) -> Tensor:
    """No cache and no blocks; the logits are those of the next token."""
    mask_id = model.shape.mask_id
    x = start_canvas(prompt, gen_length, mask_id)
    while (x == mask_id).any():
        logits = model(x).logits
        if fault == "none":
            logits = shifted(logits)
        token, commit = choose(logits, x == mask_id, mask_id, a_step, None)
        x[commit] = token[commit]
    return x


@torch.no_grad()
def dream_cached(
    model: QwenModel,
    prompt: Tensor,
    *,
    gen_length: int = 16,
    block_length: int = 8,
    a_step: int = 2,
    fault: ShiftFault = "none",
) -> Tensor:
    """Prefix cache: rows begin with the one before the block, which scores its first position."""
    mask_id = model.shape.mask_id
    x = start_canvas(prompt, gen_length, mask_id)
    for start, stop in blocks(prompt, gen_length, block_length):
        out = model(x)
        logits, first = shifted(out.logits)[:, start:], start - 1
        past = tuple((k[:, :, :first], v[:, :, :first]) for k, v in out.past_key_values)
        while (x[:, start:stop] == mask_id).any():
            masked = x[:, start:] == mask_id
            masked[:, stop - start :] = False
            token, commit = choose(logits, masked, mask_id, a_step, None)
            x[:, start:][commit] = token[commit]
            where = torch.arange(first, x.shape[1])[None]
            logits = model(x[:, first:], position_ids=where, past_key_values=past).logits
            logits = logits[:, :-1] if fault == "none" else logits[:, 1:]
    return x


def horizon(rows: Tensor, keys: Tensor, block: int, start: int, fault: HorizonFault) -> Tensor:
    """Who sees whom, bool [1, 1, R, T]: a row sees the keys up to the end of its block.

    Args:
        rows: positions of the rows.
        keys: positions of the keys.
        block: length of a block.
        start: end of the prompt.
        fault: what is wrong.
    """
    row, key = rows[:, None], keys[None]
    seen = key // block <= row // block
    if fault == "block before":
        seen = (key // block < row // block) | (key == row)
    if fault == "causal":
        seen = key <= row
    if fault == "one too far":
        seen = key // block <= row // block + 1
    if fault == "whole":
        seen = torch.ones_like(seen)
    if fault == "tail hidden":
        tail = (key < start) & (key // block == start // block)
        seen = seen & ~(tail & (row >= start))
    return seen[None, None]


@torch.no_grad()
def sdar(
    model: QwenModel,
    prompt: Tensor,
    *,
    gen_length: int = 12,
    block_length: int = 4,
    a_step: int = 1,
    fault: HorizonFault = "none",
    write: WriteFault = "none",
) -> Tensor:
    """Prefill of whole blocks; a block is decoded over the cache, and then stored."""
    mask_id, length = model.shape.mask_id, prompt.shape[1]
    total = -(-(length + gen_length) // block_length) * block_length
    x, past = start_canvas(prompt, total - length, mask_id), None
    prefill = length // block_length * block_length
    written = prefill - block_length if write == "cut short" else prefill
    if written:
        past = _call(model, x, (0, written), block_length, None, length, fault)[1]
    for start in range(prefill, total, block_length):
        span, before = (start, start + block_length), past
        while (x[:, start : span[1]] == mask_id).any():
            logits, here = _call(model, x, span, block_length, before, length, fault)
            masked = x[:, start : span[1]] == mask_id
            token, commit = choose(logits, masked, mask_id, a_step, None)
            if write in ("left out", "early"):
                past = here
            if write == "early" and masked.sum() <= a_step:
                past = _call(model, x, span, block_length, before, length, fault)[1]
            x[:, start : span[1]][commit] = token[commit]
        if write in ("none", "cut short"):
            past = _call(model, x, span, block_length, before, length, fault)[1]
    return x


@torch.no_grad()
def windows(
    model: QwenModel,
    prompt: Tensor,
    *,
    gen_length: int = 12,
    block_length: int = 4,
    a_step: int = 1,
    fault: HorizonFault = "none",
) -> Tensor:
    """No cache: each step computes the window from the start to the end of its block."""
    mask_id, length = model.shape.mask_id, prompt.shape[1]
    total = -(-(length + gen_length) // block_length) * block_length
    x = start_canvas(prompt, total - length, mask_id)
    for start in range(length // block_length * block_length, total, block_length):
        stop = start + block_length
        while (x[:, start:stop] == mask_id).any():
            logits = _call(model, x, (0, stop), block_length, None, length, fault)[0]
            masked = x[:, :stop] == mask_id
            token, commit = choose(logits, masked, mask_id, a_step, None)
            x[:, :stop][commit] = token[commit]
    return x


def _call(
    model: QwenModel,
    x: Tensor,
    span: tuple[int, int],
    block: int,
    past: tuple[KeyValue, ...] | None,
    start: int,
    fault: HorizonFault,
) -> tuple[Tensor, tuple[KeyValue, ...]]:
    rows = torch.arange(*span)
    kept = torch.arange(0 if past is None else past[0][0].shape[2])
    keys = torch.cat([kept, rows])
    out = model(
        x[:, span[0] : span[1]],
        attention_mask=horizon(rows, keys, block, start, fault),
        position_ids=rows[None],
        past_key_values=past,
    )
    return out.logits, out.past_key_values
