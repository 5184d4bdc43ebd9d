"""Triton kernels of the token skip: compare, judge, and renew the references, one launch each.

States lie in as many tensors as there are compared layers, so a kernel finds them by a table of
their addresses. A program that has nothing to do for its row reads and writes nothing.

Shape letters as in ``reference``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from skipstone.ops.decide.reference import Bars, Judged, References
from skipstone.rows import Rows, to_device

_ALIGNED = 16


@triton.jit
def _slot(slot_ptr, request, position, length):
    """Where the reference of a position is; -1 if it has no slot."""
    return tl.load(slot_ptr + request * length + position)


@triton.jit
def _state(address_ptr, layer, like_ptr, ALIGNED: tl.constexpr):
    """Where the states after a layer are."""
    state_ptr = tl.load(address_ptr + layer).to(like_ptr.dtype)
    if ALIGNED:
        # Nothing is known of an address that was loaded, and loads would be narrow.
        state_ptr = tl.multiple_of(state_ptr, 16)
    return state_ptr


@triton.jit(do_not_specialize=["position_ptr", "num_rows", "batch", "length", "slots"])
def _similarity_kernel(
    address_ptr,
    reference_ptr,
    slot_ptr,
    stamp_ptr,
    request_ptr,
    position_ptr,
    out_ptr,
    num_rows,
    batch,
    length,
    slots,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """One program compares one row in one layer."""
    row, layer = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    request, position = tl.load(request_ptr + row), tl.load(position_ptr + row)
    slot = _slot(slot_ptr, request, position, length)
    # Without a slot this is the stamp of the spare one, which may be of any position.
    stamp = tl.load(stamp_ptr + request * slots + tl.where(slot < 0, slots - 1, slot))
    column = tl.arange(0, BLOCK)
    # Without a reference nothing is read, and zeros give 0.
    inside = column < tl.where((slot >= 0) & (stamp == position), WIDTH, 0)
    state_ptr = _state(address_ptr, layer, reference_ptr, ALIGNED)
    place = (layer * batch + request) * slots + slot
    now = tl.load(state_ptr + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    before = tl.load(reference_ptr + place * WIDTH + column, mask=inside, other=0.0).to(tl.float32)

    dot = tl.sum(now * before, axis=0)
    now_length = tl.sqrt(tl.sum(now * now, axis=0))
    before_length = tl.sqrt(tl.sum(before * before, axis=0))
    # Comparisons that let a NaN through, as a minimum or maximum would not.
    now_length = tl.where(now_length < 1e-8, 1e-8, now_length)
    before_length = tl.where(before_length < 1e-8, 1e-8, before_length)
    cosine = dot / (now_length * before_length)
    cosine = tl.where(cosine > 1.0, 1.0, cosine)
    tl.store(out_ptr + layer * num_rows + row, cosine.to(tl.float64))


@triton.jit(do_not_specialize=["position_ptr", "fresh_ptr", "num_rows", "batch", "length", "slots"])
def _judge_kernel(
    similarity_ptr,
    slot_ptr,
    stamp_ptr,
    request_ptr,
    position_ptr,
    committed_ptr,
    fresh_ptr,
    number_ptr,
    flag_ptr,
    found_ptr,
    num_rows,
    batch,
    length,
    slots,
    LAYERS: tl.constexpr,
    OUTLIER: tl.constexpr,
    THRESHOLD: tl.constexpr,
    COMMITTED: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    FRESH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program judges a block of rows over all layers, in float64."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < num_rows
    smallest = tl.full((BLOCK,), float("inf"), tl.float64)
    total = tl.full((BLOCK,), 0.0, tl.float64)
    for layer in tl.static_range(LAYERS):
        cosine = tl.load(similarity_ptr + layer * num_rows + row, mask=inside, other=0.0)
        total += cosine
        smallest = tl.where((cosine < smallest) | (cosine != cosine), cosine, smallest)
    mean = total / tl.full((), LAYERS, tl.float64)

    request = tl.load(request_ptr + row, mask=inside, other=0)
    position = tl.load(position_ptr + row, mask=inside, other=0)
    at = request * length + position
    slot = tl.load(slot_ptr + at, mask=inside, other=-1)
    stamp_ptr += request * slots + slot
    stamp = tl.load(stamp_ptr, mask=slot >= 0, other=-1)
    # A position never equals -1, and a reference of another position is none.
    own = stamp == position
    forward = tl.load(stamp_ptr + batch * slots, mask=own & (slot >= 0), other=-1)
    # Scalars that are not made in float64 would be rounded to float32.
    stable = own & (smallest >= tl.full((), OUTLIER, tl.float64))
    stable = stable & (mean > tl.full((), THRESHOLD, tl.float64))

    forced = row < 0
    if COMMITTED:
        forced = forced | (tl.load(committed_ptr + at, mask=inside, other=0) != 0)
    if NEIGHBOURS:
        left = inside & (position > 0)
        right = inside & (position + 1 < length)
        forced = forced | (tl.load(committed_ptr + at - 1, mask=left, other=0) != 0)
        forced = forced | (tl.load(committed_ptr + at + 1, mask=right, other=0) != 0)
    if FRESH:
        forced = forced | (tl.load(fresh_ptr + row, mask=inside, other=0) != 0)

    tl.store(number_ptr + row, smallest, mask=inside)
    tl.store(number_ptr + num_rows + row, mean, mask=inside)
    tl.store(flag_ptr + row, stable, mask=inside)
    tl.store(flag_ptr + num_rows + row, forced, mask=inside)
    tl.store(flag_ptr + 2 * num_rows + row, (stable == 0) | forced, mask=inside)
    tl.store(found_ptr + row, tl.where(own, stamp, -1), mask=inside)
    tl.store(found_ptr + num_rows + row, forward, mask=inside)


@triton.jit(
    do_not_specialize=["position_ptr", "keep_ptr", "forward_ptr", "batch", "length", "slots"]
)
def _replace_kernel(
    address_ptr,
    reference_ptr,
    slot_ptr,
    stamp_ptr,
    request_ptr,
    position_ptr,
    keep_ptr,
    forward_ptr,
    batch,
    length,
    slots,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
    ALL: tl.constexpr,
):
    """One program copies one row of one layer to its slot, if it is kept and has one."""
    row, layer = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    request, position = tl.load(request_ptr + row), tl.load(position_ptr + row)
    slot = _slot(slot_ptr, request, position, length)
    wanted = slot >= 0
    if not ALL:
        wanted = wanted & (tl.load(keep_ptr + row) != 0)
    column = tl.arange(0, BLOCK)
    inside = column < tl.where(wanted, WIDTH, 0)
    state_ptr = _state(address_ptr, layer, reference_ptr, ALIGNED)
    place = (layer * batch + request) * slots + slot
    state = tl.load(state_ptr + row * WIDTH + column, mask=inside)
    tl.store(reference_ptr + place * WIDTH + column, state, mask=inside)
    if wanted & (layer == 0):
        stamp_ptr += request * slots + slot
        tl.store(stamp_ptr, position)
        tl.store(stamp_ptr + batch * slots, tl.load(forward_ptr + request))


def similarity(states: Sequence[Tensor], references: References, rows: Rows) -> Tensor:
    """As ``reference.similarity`` in float32, for states in float32 and shorter."""
    num_layers, batch, slots, width = references.states_SBWD.shape
    address_S, aligned = _addresses(states, references)
    out_SN = states[0].new_empty((num_layers, rows.num_rows), dtype=torch.float64)
    block = triton.next_power_of_2(width)
    _similarity_kernel[(rows.num_rows, num_layers)](
        address_S,
        references.states_SBWD,
        references.slot_BL,
        references.stamp_2BW,
        rows.request_N,
        rows.position_N,
        out_SN,
        rows.num_rows,
        batch,
        references.slot_BL.shape[1],
        slots,
        WIDTH=width,
        BLOCK=block,
        ALIGNED=aligned,
        num_warps=min(8, max(1, block // 512)),
    )
    return out_SN


def judge(
    similarity_SN: Tensor, references: References, rows: Rows, committed_BL: Tensor, bars: Bars
) -> Judged:
    """As ``reference.judge``."""
    num_layers, num_rows = similarity_SN.shape
    batch, length = references.slot_BL.shape
    number_2N = similarity_SN.new_empty((2, num_rows))
    flag_3N = similarity_SN.new_empty((3, num_rows), dtype=torch.bool)
    stamp_2N = similarity_SN.new_empty((2, num_rows), dtype=torch.int64)
    committed_BL = committed_BL.contiguous()
    block = 32
    _judge_kernel[(triton.cdiv(num_rows, block),)](
        similarity_SN,
        references.slot_BL,
        references.stamp_2BW,
        rows.request_N,
        rows.position_N,
        committed_BL,
        committed_BL if rows.fresh_N is None else rows.fresh_N,
        number_2N,
        flag_3N,
        stamp_2N,
        num_rows,
        batch,
        length,
        references.stamp_2BW.shape[-1],
        LAYERS=num_layers,
        OUTLIER=bars.outlier,
        THRESHOLD=bars.threshold,
        COMMITTED=bars.committed,
        NEIGHBOURS=bars.neighbours,
        FRESH=rows.fresh_N is not None,
        BLOCK=block,
        num_warps=1,
    )
    smallest_N, mean_N = number_2N
    stable_N, forced_N, keep_N = flag_3N
    return Judged(smallest_N, mean_N, stable_N, forced_N, keep_N, stamp_2N)


def replace(
    states: Sequence[Tensor],
    references: References,
    rows: Rows,
    keep_N: Tensor | None,
    forward_B1: Tensor,
) -> None:
    """As ``reference.replace``, for states in float32 and shorter; the spare slot is left alone."""
    num_layers, batch, slots, width = references.states_SBWD.shape
    address_S, aligned = _addresses(states, references)
    block = triton.next_power_of_2(width)
    _replace_kernel[(rows.num_rows, num_layers)](
        address_S,
        references.states_SBWD,
        references.slot_BL,
        references.stamp_2BW,
        rows.request_N,
        rows.position_N,
        rows.position_N if keep_N is None else keep_N,
        forward_B1,
        batch,
        references.slot_BL.shape[1],
        slots,
        WIDTH=width,
        BLOCK=block,
        ALIGNED=aligned,
        ALL=keep_N is None,
        num_warps=min(8, max(1, block // 512)),
    )


def _addresses(states: Sequence[Tensor], references: References) -> tuple[Tensor, bool]:
    """Where the states are, int64 [S] on the device, and whether wide loads may be used."""
    store_SBWD = references.states_SBWD
    assert len(states) == store_SBWD.shape[0]
    # An address has no shape or dtype that a kernel could check.
    assert all(x_ND.is_contiguous() for x_ND in states)
    assert states[0].dtype == store_SBWD.dtype
    assert states[0].shape[1] == store_SBWD.shape[3]
    found = tuple(x_ND.data_ptr() for x_ND in states)
    aligned = all(address % _ALIGNED == 0 for address in found)
    device = store_SBWD.device
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        # A graph owns what it reads, and holds numbers better than copies from the host.
        table = [torch.full((), a, dtype=torch.int64, device=device) for a in found]
        return torch.stack(table), aligned
    return _table(found, device), aligned


# States of captured graphs lie where they lay in the step before.
@lru_cache(maxsize=256)
def _table(addresses: tuple[int, ...], device: torch.device) -> Tensor:
    return to_device(np.array(addresses), device)
