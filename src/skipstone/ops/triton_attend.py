"""Triton kernel for attention of packed rows over long contexts, as many as each request has.

What a row may attend ends at its horizon, which is read on the device; so are the rows of each
request. One launch therefore serves any mix of requests and lengths, and a graph that captured it
serves them, too.

Where there are few programs, the keys are split among more of them: each leaves an unnormalised sum
of values, its largest score and its sum of exponentials, and a second kernel joins them in order.
How the keys of a row are split depends on its horizon alone.

Shape letters as in ``reference``; P parts of the keys, T tiles of rows.
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
# Joining reads every part again: no part of a split has fewer keys, and there are no more of them.
_LEAST_KEYS, _MOST_PARTS = 128, 4
# With more rows there are enough programs.
_MOST_ROWS_OF_SPLIT = 256
_LOG2_E = 1.4426950408889634


class Tiles(NamedTuple):
    """How the work is cut up."""

    slots: int
    """Rows times heads that one program computes; a power of two, 16 or more."""
    keys: int
    """Keys that are taken at once; a power of two, 16 or more."""
    parts: int
    """P, the most programs among which the keys of a row are split."""
    warps: int
    stages: int
    least_keys: int = _LEAST_KEYS
    """Keys that a part has, if the keys are split at all."""


@triton.jit
def _add_product(sums, left, right, WIDENS: tl.constexpr):
    """``sums`` plus a matrix product, accumulated in float32."""
    if WIDENS:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, acc=sums, input_precision="ieee")


@triton.jit
def _find_tile(offset_ptr, tile, requests, ROWS: tl.constexpr, REQUESTS: tl.constexpr):
    """Which request a tile of rows belongs to, and its first row; -1 if to none.

    Tiles are counted over all requests, each of which begins a new one.
    """
    if REQUESTS == 1:
        # Nothing else waits for this read.
        alone = tl.load(offset_ptr + 1)
        return tl.where(tile * ROWS < alone, 0, -1), tile * ROWS, alone
    at = tl.arange(0, REQUESTS)
    known = at < requests
    start = tl.load(offset_ptr + at, mask=known, other=0)
    stop = tl.load(offset_ptr + at + 1, mask=known, other=0)
    tiles = tl.where(known, (stop - start + ROWS - 1) // ROWS, 0)
    ends = tl.cumsum(tiles, axis=0)
    mine = (ends > tile) & (ends - tiles <= tile)
    found = tl.max(tl.where(mine, at, -1), axis=0)
    first = tl.sum(tl.where(mine, start + (tile - (ends - tiles)) * ROWS, 0), axis=0)
    last = tl.sum(tl.where(mine, stop, 0), axis=0)
    return found, first, last


@triton.jit(do_not_specialize=["num_rows", "requests", "capacity"])
def _attend_kernel(
    q_ptr,
    key_ptr,
    value_ptr,
    visible_ptr,
    horizon_ptr,
    request_ptr,
    offset_ptr,
    out_ptr,
    sums_ptr,
    summary_ptr,
    parts_ptr,
    q_stride,
    key_stride_b,
    key_stride_l,
    key_stride_u,
    value_stride_b,
    value_stride_l,
    value_stride_u,
    num_rows,
    requests,
    capacity,
    scale,
    HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    KEYS: tl.constexpr,
    PARTS: tl.constexpr,
    LEAST_KEYS: tl.constexpr,
    REQUESTS: tl.constexpr,
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
    slot, lane = tl.arange(0, SLOTS), tl.arange(0, WIDTH)
    head = tl.program_id(1) * GROUP + slot % GROUP
    used = tl.load(offset_ptr + requests)
    if part == 0:
        # Padding is nobody's: all programs together clear it.
        tiles = tl.num_programs(0) // PARTS
        for first in range(used + tile * ROWS, num_rows, tiles * ROWS):
            n = (first + slot // GROUP).to(tl.int64)
            to = ((n * HEADS + head) * WIDTH)[:, None] + lane[None, :]
            nothing = tl.zeros((SLOTS, WIDTH), out_ptr.dtype.element_ty)
            tl.store(out_ptr + to, nothing, mask=(n < num_rows)[:, None])
    at, first_row, stop = _find_tile(offset_ptr, tile, requests, ROWS, REQUESTS)
    # pyrefly: ignore[unsupported-operation]
    if at < 0:
        return

    n = (first_row + slot // GROUP).to(tl.int64)
    mine = n < stop
    # Asked of padding, too, so that nothing waits for the number of rows.
    horizon = tl.load(horizon_ptr + n, mask=n < num_rows, other=0)
    horizon = tl.minimum(tl.where(mine, horizon, 0), capacity).to(tl.int32)
    bound = tl.max(horizon, axis=0)
    nearest = tl.min(tl.where(mine, horizon, bound), axis=0)
    parts = tl.minimum(tl.maximum(bound // LEAST_KEYS, 1), PARTS)
    if PARTS > 1:  # noqa: SIM102 - the outer one is decided when the kernel is compiled
        if part == 0 and tl.program_id(1) == 0:
            # Several heads of a row write the same.
            tl.store(parts_ptr + n, tl.broadcast_to(parts, (SLOTS,)), mask=mine)
    if part >= parts:
        return
    # pyrefly: ignore[unsupported-operation]
    blocks = (bound + KEYS - 1) // KEYS
    part_keys = (blocks + parts - 1) // parts * KEYS

    q_at = (n * q_stride + head * WIDTH)[:, None] + lane[None, :]
    q = tl.load(q_ptr + q_at, mask=mine[:, None], other=0.0)
    request = tl.load(request_ptr + at)
    kv_head = tl.program_id(1) * GROUP // SHARED
    key_ptr += request * key_stride_b + kv_head * key_stride_u
    value_ptr += request * value_stride_b + kv_head * value_stride_u
    visible_ptr += request * capacity

    peak = tl.full((SLOTS,), -float("inf"), tl.float32)
    total = tl.zeros((SLOTS,), tl.float32)
    sums = tl.zeros((SLOTS, WIDTH), tl.float32)
    step = tl.arange(0, KEYS)
    key_at = (step * key_stride_l)[None, :] + lane[:, None]
    value_at = (step * value_stride_l)[:, None] + lane[None, :]
    from_key = part * part_keys
    to_key = tl.minimum(from_key + part_keys, bound)
    # Blocks of keys that every row sees; hidden ones may be anywhere.
    whole = from_key if MASKED else tl.maximum(tl.minimum(to_key, nearest) // KEYS * KEYS, from_key)
    for first in range(from_key, whole, KEYS):
        at_key = tl.cast(first, tl.int64)
        key = tl.load(key_ptr + at_key * key_stride_l + key_at)
        score = _add_product(tl.zeros((SLOTS, KEYS), tl.float32), q, key, WIDENS)
        higher = tl.maximum(peak, tl.max(score, axis=1) * scale)
        weight = tl.exp2(score * scale - higher[:, None])
        fade = tl.exp2(peak - higher)
        total = total * fade + tl.sum(weight, axis=1)
        value = tl.load(value_ptr + at_key * value_stride_l + value_at)
        sums = _add_product(sums * fade[:, None], weight.to(value.dtype), value, WIDENS)
        peak = higher
    for first in range(whole, to_key, KEYS):
        # Beyond the horizon may lie what an earlier request left, or nothing that is a number.
        inside = first + step < bound
        at_key = tl.cast(first, tl.int64)
        key = tl.load(key_ptr + at_key * key_stride_l + key_at, mask=inside[None, :], other=0.0)
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
        value_from = value_ptr + at_key * value_stride_l
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


@triton.jit(do_not_specialize=["num_rows", "requests"])
def _join_kernel(
    sums_ptr,
    summary_ptr,
    parts_ptr,
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
    """One program joins the parts of some heads of one row; padding has none."""
    wait_for_inputs(EARLY)
    row = tl.program_id(0).to(tl.int64)
    # What nobody wrote is not even read, for it may be NaN.
    if row >= tl.load(offset_ptr + requests):
        return
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


def splits(rows: Rows) -> bool:
    """Whether the rows are few, and one sees so many keys that they may be worth splitting."""
    few = rows.num_rows <= _MOST_ROWS_OF_SPLIT
    return few and bool(rows.horizon.max(initial=0) >= 2 * _LEAST_KEYS)


def tiles_for(
    requests: int,
    num_rows: int,
    heads: int,
    kv_heads: int,
    width: int,
    itemsize: int,
    *,
    far: bool,
) -> Tiles:
    """A good way to cut up the work, by shapes alone: near the best of ``benchmarks/attend.py``.

    Args:
        requests: that may have rows.
        num_rows: of all of them.
        heads: of the queries.
        kv_heads: of keys and values.
        width: of a head.
        itemsize: bytes of a number.
        far: what ``splits`` says.
    """
    group = group_of(heads, kv_heads)
    asked = triton.cdiv(num_rows, requests) * group
    # Float32 has no matrix unit that is exact: small tiles keep it in registers.
    most = 16 if itemsize > 2 else 32 if width > 128 else 64
    slots = triton.next_power_of_2(max(16, min(asked, most)))
    programs = _tiles(num_rows, requests, slots // group) * (heads // group)
    parts = max(1, min(_MOST_PARTS, _ENOUGH // programs)) if far else 1
    if parts == 1 and programs < _PROCESSORS:
        # Too few keys to split: rather read them more often than leave processors idle.
        slots = 16
    if most < 64:
        return Tiles(slots, most, parts, 4, 2)
    # Where each key is read once, reading is all that counts; programs side by side overlap it.
    once = asked <= slots
    keys = 32 if once and slots == 64 else 64
    return Tiles(slots, keys, parts, 4, 2 if once and slots < 64 and programs > _ENOUGH else 3)


def _tiles(num_rows: int, requests: int, rows_of_tile: int) -> int:
    """T, tiles of rows that are enough however the rows are spread over the requests."""
    having = min(num_rows, requests)
    return (num_rows - having) // rows_of_tile + having


def attend(
    q_NHE: Tensor,
    key_BLUE: Tensor,
    value_BLUE: Tensor,
    rows: Rows,
    visible_BL: Tensor | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """As ``reference.attend``, for float32 and shorter; padding rows give zeros.

    Args:
        q_NHE: rotated queries; rows may be apart. E is a power of two, 16 or more.
        key_BLUE: keys of all requests; any strides but the last.
        value_BLUE: values of all requests; any strides but the last.
        rows: whose queries these are; only its tensors are used.
        visible_BL: bool, False where a position is hidden from all; None hides nothing.
        tiles: how to cut up the work; None chooses.

    Returns:
        [N, H*E] in the dtype of the queries.
    """
    assert key_BLUE.stride(-1) == value_BLUE.stride(-1) == 1
    num_rows, heads, width = q_NHE.shape
    capacity, kv_heads = key_BLUE.shape[1:3]
    requests = rows.request_A.shape[0]
    if tiles is None:
        size, far = q_NHE.element_size(), splits(rows)
        tiles = tiles_for(requests, num_rows, heads, kv_heads, width, size, far=far)
    group = group_of(heads, kv_heads)
    if q_NHE.stride()[1:] != (width, 1):
        q_NHE = q_NHE.contiguous()
    out_NHE = q_NHE.new_empty(num_rows, heads, width)
    count = _tiles(num_rows, requests, tiles.slots // group)
    sums, summary, parts_N = out_NHE, out_NHE, rows.offset_A1
    if tiles.parts > 1:
        shape = (tiles.parts, num_rows, heads)
        sums = q_NHE.new_empty((*shape, width), dtype=torch.float32)
        summary = q_NHE.new_empty((2, *shape), dtype=torch.float32)
        parts_N = q_NHE.new_empty(num_rows, dtype=torch.int32)
    seen = q_NHE if visible_BL is None else visible_BL.contiguous().view(torch.int8)
    key_stride_b, key_stride_l, key_stride_u, _ = key_BLUE.stride()
    value_stride_b, value_stride_l, value_stride_u, _ = value_BLUE.stride()
    _attend_kernel[(count * tiles.parts, heads // group)](
        q_NHE,
        key_BLUE,
        value_BLUE,
        seen,
        rows.horizon_N,
        rows.request_A,
        rows.offset_A1,
        out_NHE,
        sums,
        summary,
        parts_N,
        q_NHE.stride(0),
        key_stride_b,
        key_stride_l,
        key_stride_u,
        value_stride_b,
        value_stride_l,
        value_stride_u,
        num_rows,
        requests,
        capacity,
        _LOG2_E / width**0.5,
        HEADS=heads,
        SHARED=heads // kv_heads,
        GROUP=group,
        WIDTH=width,
        SLOTS=tiles.slots,
        KEYS=tiles.keys,
        PARTS=tiles.parts,
        LEAST_KEYS=tiles.least_keys,
        REQUESTS=triton.next_power_of_2(requests),
        MASKED=visible_BL is not None,
        # Triton's interpreter multiplies the bits of bfloat16; in float32 they say the same.
        WIDENS=not q_NHE.is_cuda,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        **triton_early.options(q_NHE),
    )
    if tiles.parts > 1:
        together = gcd(heads, max(1, 512 // width))
        _join_kernel[(num_rows, heads // together)](
            sums,
            summary,
            parts_N,
            rows.offset_A1,
            out_NHE,
            num_rows,
            requests,
            HEADS=heads,
            WIDTH=width,
            GROUP=together,
            PARTS=tiles.parts,
            num_warps=4 if together * width >= 512 else 1,
            **triton_early.options(q_NHE),
        )
    return out_NHE.flatten(1)
