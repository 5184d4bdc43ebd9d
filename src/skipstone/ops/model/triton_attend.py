"""Triton kernel for attention of packed rows over long contexts, as many as each request has.

What each program computes it reads on the device, as ``attention_work`` says: a tile of one
request's rows, and a part of the keys that they see. One launch therefore serves any mix of
requests and lengths, and a graph that captured it serves them, too.

Where there are few programs, the keys are split among more of them: each leaves an unnormalised sum
of values, its largest score and its sum of exponentials, and a second kernel joins them in order.

Shape letters as in ``reference``; P parts of the keys, W pieces of the work.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import torch
import triton
import triton.language as tl
from torch import Tensor

from skipstone.ops import triton_early
from skipstone.ops.model import attention_work
from skipstone.ops.model.attention_work import Tiles
from skipstone.ops.triton_early import wait_for_inputs
from skipstone.rows import Rows, to_device

_LOG2_E = 1.4426950408889634


@triton.jit
def _add_product(sums, left, right, WIDENS: tl.constexpr):
    """``sums`` plus a matrix product, accumulated in float32."""
    if WIDENS:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, acc=sums, input_precision="ieee")


@triton.jit(do_not_specialize=["horizon_ptr", "request_ptr", "num_rows", "capacity"])
def _attend_kernel(
    q_ptr,
    key_ptr,
    value_ptr,
    visible_ptr,
    horizon_ptr,
    request_ptr,
    work_ptr,
    out_ptr,
    sums_ptr,
    summary_ptr,
    parts_ptr,
    q_stride,
    key_stride_c,
    key_stride_u,
    value_stride_c,
    value_stride_u,
    num_rows,
    capacity,
    scale,
    HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    KEYS: tl.constexpr,
    PARTS: tl.constexpr,
    MASKED: tl.constexpr,
    WIDENS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One program: a piece of the work, GROUP heads with the same keys.

    SHARED query heads share a key/value head; GROUP divides it. Slot ``i`` of a tile is head
    ``i % GROUP`` of row ``i // GROUP``.
    """
    wait_for_inputs(EARLY)
    # All heads of a piece stand before the next piece: those that nobody needs come last.
    slot, lane = tl.arange(0, SLOTS), tl.arange(0, WIDTH)
    head = tl.program_id(0) * GROUP + slot % GROUP
    work_ptr += tl.program_id(1) * 8
    first_row, stop = tl.load(work_ptr), tl.load(work_ptr + 1)
    base = tl.load(work_ptr + 2).to(tl.int64)
    from_key, to_key = tl.load(work_ptr + 3), tl.load(work_ptr + 4)
    nearest = tl.load(work_ptr + 5)
    part, parts = tl.load(work_ptr + 6), tl.load(work_ptr + 7)
    if first_row >= stop:
        return

    n = (first_row + slot // GROUP).to(tl.int64)
    mine = n < stop
    if PARTS > 1:  # noqa: SIM102 - the outer one is decided when the kernel is compiled
        if part == 0 and tl.program_id(0) == 0:
            # Several heads of a row write the same.
            tl.store(parts_ptr + n, tl.broadcast_to(parts, (SLOTS,)), mask=mine)

    q_at = (n * q_stride + head * WIDTH)[:, None] + lane[None, :]
    q = tl.load(q_ptr + q_at, mask=mine[:, None], other=0.0)
    kv_head = tl.program_id(0) * GROUP // SHARED
    key_ptr += base * key_stride_c + kv_head * key_stride_u
    value_ptr += base * value_stride_c + kv_head * value_stride_u
    horizon = tl.load(horizon_ptr + n, mask=mine, other=0).to(tl.int32)
    if MASKED:
        visible_ptr += tl.load(request_ptr + first_row) * capacity

    peak = tl.full((SLOTS,), -float("inf"), tl.float32)
    total = tl.zeros((SLOTS,), tl.float32)
    sums = tl.zeros((SLOTS, WIDTH), tl.float32)
    step = tl.arange(0, KEYS)
    key_at = (step * key_stride_c)[None, :] + lane[:, None]
    value_at = (step * value_stride_c)[:, None] + lane[None, :]
    # Blocks of keys that every row sees; hidden ones may be anywhere.
    whole = from_key if MASKED else tl.maximum(tl.minimum(to_key, nearest) // KEYS * KEYS, from_key)
    for first in range(from_key, whole, KEYS):
        at_key = tl.cast(first, tl.int64)
        key = tl.load(key_ptr + at_key * key_stride_c + key_at)
        score = _add_product(tl.zeros((SLOTS, KEYS), tl.float32), q, key, WIDENS)
        higher = tl.maximum(peak, tl.max(score, axis=1) * scale)
        weight = tl.exp2(score * scale - higher[:, None])
        fade = tl.exp2(peak - higher)
        total = total * fade + tl.sum(weight, axis=1)
        value = tl.load(value_ptr + at_key * value_stride_c + value_at)
        sums = _add_product(sums * fade[:, None], weight.to(value.dtype), value, WIDENS)
        peak = higher
    for first in range(whole, to_key, KEYS):
        # Beyond the horizon may lie what an earlier request left, or nothing that is a number.
        inside = first + step < to_key
        at_key = tl.cast(first, tl.int64)
        key = tl.load(key_ptr + at_key * key_stride_c + key_at, mask=inside[None, :], other=0.0)
        score = _add_product(tl.zeros((SLOTS, KEYS), tl.float32), q, key, WIDENS)
        seen = (first + step)[None, :] < horizon[:, None]
        if MASKED:
            shown = tl.load(visible_ptr + first + step, mask=inside, other=0) != 0
            seen = seen & shown[None, :]
        score = tl.where(seen, score, -float("inf"))
        higher = tl.maximum(peak, tl.max(score, axis=1) * scale)
        # As long as nothing is visible every exponent is -inf, and every term 0.
        origin = tl.where(higher == -float("inf"), 0.0, higher)
        weight = tl.exp2(score * scale - origin[:, None])
        fade = tl.exp2(peak - origin)
        total = total * fade + tl.sum(weight, axis=1)
        value_from = value_ptr + at_key * value_stride_c
        value = tl.load(value_from + value_at, mask=inside[:, None], other=0.0)
        sums = _add_product(sums * fade[:, None], weight.to(value.dtype), value, WIDENS)
        peak = higher

    place = n * HEADS + head
    if PARTS > 1:  # noqa: SIM102 - the outer one is decided when the kernel is compiled
        if parts > 1:
            here = part * num_rows * HEADS + place
            sums_at = (here * WIDTH)[:, None] + lane[None, :]
            tl.store(sums_ptr + sums_at, sums, mask=mine[:, None])
            tl.store(summary_ptr + here, peak, mask=mine)
            tl.store(summary_ptr + num_rows * (PARTS * HEADS) + here, total, mask=mine)
            return
    sums = sums / tl.where(total == 0.0, 1.0, total)[:, None]
    out_at = (place * WIDTH)[:, None] + lane[None, :]
    tl.store(out_ptr + out_at, sums.to(out_ptr.dtype.element_ty), mask=mine[:, None])


@triton.jit(do_not_specialize=["num_rows"])
def _join_kernel(
    sums_ptr,
    summary_ptr,
    parts_ptr,
    out_ptr,
    num_rows,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One program joins the parts of some heads of one row."""
    wait_for_inputs(EARLY)
    row = tl.program_id(0).to(tl.int64)
    parts = tl.load(parts_ptr + row)
    if parts == 1:
        return
    head = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    place, lane = row * HEADS + head, tl.arange(0, WIDTH)
    step = num_rows * HEADS

    peak = tl.full((GROUP,), -float("inf"), tl.float32)
    for part in tl.static_range(PARTS):
        mine = tl.full((GROUP,), part, tl.int32) < parts
        found = tl.load(summary_ptr + part * step + place, mask=mine, other=-float("inf"))
        peak = tl.maximum(peak, found)
    origin = tl.where(peak == -float("inf"), 0.0, peak)
    total = tl.zeros((GROUP,), tl.float32)
    sums = tl.zeros((GROUP, WIDTH), tl.float32)
    for part in tl.static_range(PARTS):
        at = part * step + place
        mine = tl.full((GROUP,), part, tl.int32) < parts
        found = tl.load(summary_ptr + at, mask=mine, other=-float("inf"))
        share = tl.exp2(found - origin)
        total += share * tl.load(summary_ptr + PARTS * step + at, mask=mine, other=0.0)
        sums_at = (at * WIDTH)[:, None] + lane[None, :]
        sums += share[:, None] * tl.load(sums_ptr + sums_at, mask=mine[:, None], other=0.0)
    out = sums / tl.where(total == 0.0, 1.0, total)[:, None]
    out_at = (place * WIDTH)[:, None] + lane[None, :]
    tl.store(out_ptr + out_at, out.to(out_ptr.dtype.element_ty))


def group_of(heads: int, kv_heads: int) -> int:
    """Query heads that one program computes, all with the same keys: a power of two."""
    return min(16, gcd(heads // kv_heads, 16))


@lru_cache(maxsize=16)
def _work(rows: Rows, tiles: Tiles, group: int, heads: int) -> Tensor:
    """The pieces [W, 8] on the device; the layers of a step share them."""
    found = attention_work.pieces(rows, tiles, group, heads, num_rows=rows.num_rows)
    return to_device(found, rows.device)


def attend(
    q_NHE: Tensor,
    key_CUE: Tensor,
    value_CUE: Tensor,
    rows: Rows,
    visible_BL: Tensor | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """As ``reference.attend``, for float32 and shorter; padding rows give zeros.

    Args:
        q_NHE: rotated queries; rows may be apart. E is a power of two, 16 or more.
        key_CUE: keys of all cells; any strides but the last.
        value_CUE: values of all cells; any strides but the last.
        rows: whose queries these are; with ``work_W8``, only its tensors are used.
        visible_BL: bool, False where a position is hidden from all; None hides nothing.
        tiles: how large the pieces of the work are; None chooses.

    Returns:
        [N, H*E] in the dtype of the queries.
    """
    assert key_CUE.stride(-1) == value_CUE.stride(-1) == 1
    num_rows, heads, width = q_NHE.shape
    kv_heads = key_CUE.shape[1]
    group = group_of(heads, kv_heads)
    if tiles is None:
        far = attention_work.splits(rows)
        size = q_NHE.element_size()
        tiles = attention_work.tiles_for(
            num_rows, heads, group, width, size, shared=heads > kv_heads, far=far
        )
    work_W8 = rows.work_W8
    if work_W8 is None:
        work_W8 = _work(rows, tiles, group, heads)
    if q_NHE.stride()[1:] != (width, 1):
        q_NHE = q_NHE.contiguous()
    out_NHE = q_NHE.new_empty(num_rows, heads, width)
    sums, summary, parts_N = out_NHE, out_NHE, work_W8
    if tiles.parts > 1:
        shape = (tiles.parts, num_rows, heads)
        sums = q_NHE.new_empty((*shape, width), dtype=torch.float32)
        summary = q_NHE.new_empty((2, *shape), dtype=torch.float32)
        parts_N = q_NHE.new_empty(num_rows, dtype=torch.int32)
    seen = q_NHE if visible_BL is None else visible_BL.contiguous().view(torch.int8)
    _attend_kernel[(heads // group, work_W8.shape[0])](
        q_NHE,
        key_CUE,
        value_CUE,
        seen,
        rows.horizon_N,
        rows.request_N,
        work_W8,
        out_NHE,
        sums,
        summary,
        parts_N,
        q_NHE.stride(0),
        key_CUE.stride(0),
        key_CUE.stride(1),
        value_CUE.stride(0),
        value_CUE.stride(1),
        num_rows,
        0 if visible_BL is None else visible_BL.shape[1],
        _LOG2_E / width**0.5,
        HEADS=heads,
        SHARED=heads // kv_heads,
        GROUP=group,
        WIDTH=width,
        SLOTS=tiles.slots,
        KEYS=tiles.keys,
        PARTS=tiles.parts,
        MASKED=visible_BL is not None,
        # Triton's interpreter multiplies the bits of bfloat16; in float32 they say the same.
        WIDENS=not q_NHE.is_cuda,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        **triton_early.options(q_NHE),
    )
    if tiles.parts > 1:
        _join(sums, summary, parts_N, out_NHE)
    return out_NHE.flatten(1)


def _join(sums: Tensor, summary: Tensor, parts_N: Tensor, out_NHE: Tensor) -> None:
    """Join the parts [P, N, H, E] of rows that have several into ``out_NHE``."""
    num_rows, heads, width = out_NHE.shape
    together = gcd(heads, max(1, 512 // width))
    _join_kernel[(num_rows, heads // together)](
        sums,
        summary,
        parts_N,
        out_NHE,
        num_rows,
        HEADS=heads,
        WIDTH=width,
        GROUP=together,
        PARTS=sums.shape[0],
        num_warps=4 if together * width >= 512 else 1,
        **triton_early.options(out_NHE),
    )
