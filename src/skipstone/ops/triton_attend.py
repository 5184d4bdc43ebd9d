"""Triton kernels for attention of few packed rows over long contexts, as many as each request has.

Where there are few programs, the keys are split among more of them: each leaves an unnormalised sum
of values, its largest score and its sum of exponentials, and a second kernel joins them in order.
Nothing is read on the host: which rows are whose stands in ``Rows.offset_A1``.

Shape letters as in ``reference``; P parts of the keys.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from skipstone.ops import triton_early
from skipstone.ops.triton_early import wait_for_inputs
from skipstone.rows import Rows

# Of an H100. Not asked of the card, so that the order of a sum depends on shapes alone.
_PROCESSORS = 132
# Programs that fill a card: two run at once on each processor.
_ENOUGH = 2 * _PROCESSORS
# Joining costs a launch and reads every part again: no part of a split has fewer keys, and there
# are no more of them.
_LEAST_KEYS, _MOST_PARTS = 128, 4
_LOG2_E = 1.4426950408889634


class Tiles(NamedTuple):
    """How the work is cut up."""

    slots: int
    """Rows times heads that one program computes; a power of two, 16 or more."""
    keys: int
    """Keys that are taken at once; a power of two, 16 or more."""
    parts: int
    """P, programs among which the keys of a request are split."""
    warps: int
    stages: int


@triton.jit
def _add_product(sums, left, right, WIDENS: tl.constexpr):
    """``sums`` plus a matrix product, accumulated in float32."""
    if WIDENS:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, acc=sums, input_precision="ieee")


@triton.jit
def _attend_kernel(
    q_ptr,
    key_ptr,
    value_ptr,
    visible_ptr,
    request_ptr,
    offset_ptr,
    out_ptr,
    summary_ptr,
    q_stride,
    key_stride_b,
    key_stride_l,
    key_stride_u,
    value_stride_b,
    value_stride_l,
    value_stride_u,
    num_rows,
    length,
    part_keys,
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
    """One program: a tile of one request's rows, GROUP heads with the same keys, one part of them.

    SHARED query heads share a key/value head; GROUP divides it. Slot ``i`` of a tile is head
    ``i % GROUP`` of row ``i // GROUP``.
    """
    ROWS: tl.constexpr = SLOTS // GROUP
    wait_for_inputs(EARLY)
    tile, part = tl.program_id(0) // PARTS, tl.program_id(0) % PARTS
    at = tl.program_id(2)
    start, stop = tl.load(offset_ptr + at), tl.load(offset_ptr + at + 1)
    slot, lane = tl.arange(0, SLOTS), tl.arange(0, WIDTH)
    head = tl.program_id(1) * GROUP + slot % GROUP
    if PARTS == 1:
        # Padding is nobody's: the programs of the last request clear it.
        padding = tl.where(at == tl.num_programs(2) - 1, stop + tile * ROWS, num_rows)
        for first in range(padding, num_rows, tl.num_programs(0) * ROWS):
            n = (first + slot // GROUP).to(tl.int64)
            to = ((n * HEADS + head) * WIDTH)[:, None] + lane[None, :]
            nothing = tl.zeros((SLOTS, WIDTH), out_ptr.dtype.element_ty)
            tl.store(out_ptr + to, nothing, mask=(n < num_rows)[:, None])
    if start + tile * ROWS >= stop:
        return

    n = (start + tile * ROWS + slot // GROUP).to(tl.int64)
    mine = n < stop
    q_at = (n * q_stride + head * WIDTH)[:, None] + lane[None, :]
    q = tl.load(q_ptr + q_at, mask=mine[:, None], other=0.0)
    request = tl.load(request_ptr + at)
    kv_head = tl.program_id(1) * GROUP // SHARED
    key_ptr += request * key_stride_b + kv_head * key_stride_u
    value_ptr += request * value_stride_b + kv_head * value_stride_u
    visible_ptr += request * length

    peak = tl.full((SLOTS,), -float("inf"), tl.float32)
    total = tl.zeros((SLOTS,), tl.float32)
    sums = tl.zeros((SLOTS, WIDTH), tl.float32)
    step = tl.arange(0, KEYS)
    key_at = (step * key_stride_l)[None, :] + lane[:, None]
    value_at = (step * value_stride_l)[:, None] + lane[None, :]
    from_key = part * part_keys
    for first in range(from_key, tl.minimum(from_key + part_keys, length), KEYS):
        inside = first + step < length
        key_from = key_ptr + tl.cast(first, tl.int64) * key_stride_l
        key = tl.load(key_from + key_at, mask=inside[None, :], other=0.0)
        score = _add_product(tl.zeros((SLOTS, KEYS), tl.float32), q, key, WIDENS)
        seen = inside
        if MASKED:
            seen = tl.load(visible_ptr + first + step, mask=inside, other=0) != 0
        score = tl.where(seen[None, :], score, -float("inf"))
        higher = tl.maximum(peak, tl.max(score, axis=1) * scale)
        # As long as nothing is visible every exponent is -inf, and every term 0.
        origin = tl.where(higher == -float("inf"), 0.0, higher)
        weight = tl.exp2(score * scale - origin[:, None])
        fade = tl.exp2(peak - origin)
        total = total * fade + tl.sum(weight, axis=1)
        value_from = value_ptr + tl.cast(first, tl.int64) * value_stride_l
        value = tl.load(value_from + value_at, mask=inside[:, None], other=0.0)
        sums = _add_product(sums * fade[:, None], weight.to(value.dtype), value, WIDENS)
        peak = higher

    place = n * HEADS + head
    if PARTS == 1:
        sums = sums / tl.where(total == 0.0, 1.0, total)[:, None]
    else:
        place += part * num_rows * HEADS
        tl.store(summary_ptr + place, peak, mask=mine)
        tl.store(summary_ptr + num_rows * (PARTS * HEADS) + place, total, mask=mine)
    out_at = (place * WIDTH)[:, None] + lane[None, :]
    tl.store(out_ptr + out_at, sums.to(out_ptr.dtype.element_ty), mask=mine[:, None])


@triton.jit
def _join_kernel(
    sums_ptr,
    summary_ptr,
    offset_ptr,
    out_ptr,
    num_rows,
    requests,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One program joins the parts of some heads of one row; padding gets zeros."""
    wait_for_inputs(EARLY)
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    place, lane = row * HEADS + head, tl.arange(0, WIDTH)
    step = num_rows * HEADS

    # What nobody wrote is not even read, for it may be NaN.
    mine = tl.broadcast_to(row, (GROUP,)) < tl.load(offset_ptr + requests)
    peak = tl.full((GROUP,), -float("inf"), tl.float32)
    for part in tl.static_range(PARTS):
        found = tl.load(summary_ptr + part * step + place, mask=mine, other=-float("inf"))
        peak = tl.maximum(peak, found)
    origin = tl.where(peak == -float("inf"), 0.0, peak)
    total = tl.zeros((GROUP,), tl.float32)
    sums = tl.zeros((GROUP, WIDTH), tl.float32)
    for part in tl.static_range(PARTS):
        at = part * step + place
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


def tiles_for(
    requests: int, widest: int, length: int, heads: int, kv_heads: int, width: int, itemsize: int
) -> Tiles:
    """A good way to cut up the work, by shapes alone: near the best of ``benchmarks/attend.py``."""
    group = group_of(heads, kv_heads)
    asked = widest * group
    # Float32 has no matrix unit that is exact: small tiles keep it in registers.
    most = 16 if itemsize > 2 else 32 if width > 128 else 64
    slots = triton.next_power_of_2(max(16, min(asked, most)))
    programs = requests * triton.cdiv(asked, slots) * (heads // group)
    parts = max(1, min(_MOST_PARTS, _ENOUGH // programs, length // _LEAST_KEYS))
    if parts == 1 and programs < _PROCESSORS:
        # Too few keys to split: rather read them more often than leave processors idle.
        slots = 16
    if most < 64:
        return Tiles(slots, most, parts, 4, 2)
    # Where each key is read once, reading is all that counts; programs side by side overlap it.
    once = asked <= slots
    keys = 32 if once and slots == 64 else 64
    return Tiles(slots, keys, parts, 4, 2 if once and slots < 64 and programs > _ENOUGH else 3)


def attend(
    q_NHE: Tensor,
    key_BLUE: Tensor,
    value_BLUE: Tensor,
    rows: Rows,
    visible_BL: Tensor | None,
    tiles: Tiles | None = None,
) -> Tensor:
    """As ``reference.attend``, for float32 and shorter; padding rows give zeros.

    Args:
        q_NHE: rotated queries; rows may be apart. E is a power of two, 16 or more.
        key_BLUE: keys of all requests; any strides but the last.
        value_BLUE: values of all requests; any strides but the last.
        rows: whose queries these are; only its tensors, and ``widest`` as a bound, are used.
        visible_BL: bool, False where a position is padding; None when nothing is padded.
        tiles: how to cut up the work; None chooses.

    Returns:
        [N, H*E] in the dtype of the queries.
    """
    assert key_BLUE.stride(-1) == value_BLUE.stride(-1) == 1
    num_rows, heads, width = q_NHE.shape
    length, kv_heads = key_BLUE.shape[1:3]
    requests = rows.request_A.shape[0]
    if tiles is None:
        itemsize = q_NHE.element_size()
        tiles = tiles_for(requests, rows.widest, length, heads, kv_heads, width, itemsize)
    blocks = triton.cdiv(length, tiles.keys)
    part_blocks = triton.cdiv(blocks, tiles.parts)
    # Rounding up may leave the last parts without a key.
    tiles = tiles._replace(parts=triton.cdiv(blocks, part_blocks))
    out_NHE = q_NHE.new_empty(num_rows, heads, width)
    if tiles.parts == 1:
        _launch(q_NHE, key_BLUE, value_BLUE, rows, visible_BL, tiles, out_NHE, out_NHE)
        return out_NHE.flatten(1)
    shape = (tiles.parts, num_rows, heads)
    sums_PNHE = q_NHE.new_empty((*shape, width), dtype=torch.float32)
    summary_2PNH = q_NHE.new_empty((2, *shape), dtype=torch.float32)
    _launch(q_NHE, key_BLUE, value_BLUE, rows, visible_BL, tiles, sums_PNHE, summary_2PNH)
    group = gcd(heads, max(1, 512 // width))
    _join_kernel[(num_rows, heads // group)](
        sums_PNHE,
        summary_2PNH,
        rows.offset_A1,
        out_NHE,
        num_rows,
        requests,
        HEADS=heads,
        WIDTH=width,
        GROUP=group,
        PARTS=tiles.parts,
        num_warps=4 if group * width >= 512 else 1,
        **triton_early.options(q_NHE),
    )
    return out_NHE.flatten(1)


def _launch(
    q_NHE: Tensor,
    key_BLUE: Tensor,
    value_BLUE: Tensor,
    rows: Rows,
    visible_BL: Tensor | None,
    tiles: Tiles,
    out: Tensor,
    summary: Tensor,
) -> None:
    """Start the programs; ``out`` is [N, H, E] or [P, N, H, E], ``summary`` [2, P, N, H]."""
    num_rows, heads, width = q_NHE.shape
    length, kv_heads = key_BLUE.shape[1:3]
    if q_NHE.stride()[1:] != (width, 1):
        q_NHE = q_NHE.contiguous()
    seen = q_NHE if visible_BL is None else visible_BL.contiguous().view(torch.int8)
    key_stride_b, key_stride_l, key_stride_u, _ = key_BLUE.stride()
    value_stride_b, value_stride_l, value_stride_u, _ = value_BLUE.stride()
    group = group_of(heads, kv_heads)
    row_tiles = triton.cdiv(rows.widest, tiles.slots // group)
    grid = (row_tiles * tiles.parts, heads // group, rows.request_A.shape[0])
    _attend_kernel[grid](
        q_NHE,
        key_BLUE,
        value_BLUE,
        seen,
        rows.request_A,
        rows.offset_A1,
        out,
        summary,
        q_NHE.stride(0),
        key_stride_b,
        key_stride_l,
        key_stride_u,
        value_stride_b,
        value_stride_l,
        value_stride_u,
        num_rows,
        length,
        triton.cdiv(triton.cdiv(length, tiles.keys), tiles.parts) * tiles.keys,
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
