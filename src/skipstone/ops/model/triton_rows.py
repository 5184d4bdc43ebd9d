"""Triton kernels for what is done row by row: norm, SwiGLU, rotation and the write of K/V.

Each reads its input once and rounds where the reference rounds.

Shape letters as in ``reference``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from skipstone.ops import triton_early
from skipstone.ops.model.reference import HeadNorms
from skipstone.ops.triton_early import wait_for_inputs
from skipstone.rows import Rows


@triton.jit
def _norm_kernel(
    x_ptr,
    delta_ptr,
    weight_ptr,
    sum_ptr,
    normed_ptr,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One program normalises one row."""
    wait_for_inputs(EARLY)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    at = tl.program_id(0).to(tl.int64) * WIDTH + column
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    if ADDS:
        delta = tl.load(delta_ptr + at, mask=inside, other=0.0)
        x = (x.to(tl.float32) + delta.to(tl.float32)).to(x.dtype)
        tl.store(sum_ptr + at, x, mask=inside)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / WIDTH + eps)
    unit = (wide * scale).to(x.dtype).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed_ptr + at, (weight * unit).to(x.dtype), mask=inside)


@triton.jit
def _swiglu_kernel(
    gate_up_ptr, out_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr
):
    """One program gates one block of one row."""
    wait_for_inputs(EARLY)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    at = row * (2 * WIDTH) + column
    gate = tl.load(gate_up_ptr + at, mask=inside, other=0.0)
    up = tl.load(gate_up_ptr + at + WIDTH, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype)
    out = silu.to(tl.float32) * up.to(tl.float32)
    tl.store(out_ptr + row * WIDTH + column, out.to(gate.dtype), mask=inside)


@triton.jit
def _normed(wide, scale, query_ptr, key_ptr, lane, inside, is_query, dtype: tl.constexpr):
    """A part of each head, normalised and weighted, rounded where the reference rounds."""
    unit = (wide * scale).to(dtype).to(tl.float32)
    query = tl.load(query_ptr + lane, mask=inside, other=0.0).to(tl.float32)
    key = tl.load(key_ptr + lane, mask=inside, other=0.0).to(tl.float32)
    return (tl.where(is_query, query, key) * unit).to(dtype).to(tl.float32)


@triton.jit
def _rounded(value, factor, dtype: tl.constexpr):
    """A product, rounded to the dtype."""
    return (value * factor.to(tl.float32)).to(dtype).to(tl.float32)


@triton.jit(do_not_specialize=["base_ptr", "position_ptr", "writes_ptr", "num_rows"])
def _rotate_and_write_kernel(
    qkv_ptr,
    angles_ptr,
    q_ptr,
    key_ptr,
    value_ptr,
    base_ptr,
    position_ptr,
    writes_ptr,
    query_norm_ptr,
    key_norm_ptr,
    row_stride,
    key_stride_c,
    key_stride_u,
    value_stride_c,
    value_stride_u,
    num_rows,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROTATED: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_REST: tl.constexpr,
    ALL_WRITE: tl.constexpr,
    NORMS: tl.constexpr,
    ROUNDS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One program takes some heads of one row to where they belong.

    A head is the left and the right half of what is rotated, and a rest that is not.
    """
    wait_for_inputs(EARLY)
    HALF: tl.constexpr = ROTATED // 2
    TURNED: tl.constexpr = HEADS + KV_HEADS
    row = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS))[:, None]
    lane = tl.arange(0, BLOCK_HALF)[None, :]
    narrow = lane < HALF
    inside = (head < TURNED + KV_HEADS) & narrow
    left_ptr = qkv_ptr + row * row_stride + head * WIDTH + lane
    left = tl.load(left_ptr, mask=inside, other=0.0)
    right = tl.load(left_ptr + HALF, mask=inside, other=0.0)

    rest_lane = ROTATED + tl.arange(0, BLOCK_REST)[None, :]
    wide = rest_lane < WIDTH
    rest = left
    if ROTATED < WIDTH:
        rest_ptr = qkv_ptr + row * row_stride + head * WIDTH + rest_lane
        rest = tl.load(rest_ptr, mask=(head < TURNED + KV_HEADS) & wide, other=0.0)

    x, y = left.to(tl.float32), right.to(tl.float32)
    new_rest = rest
    if NORMS:
        squares = tl.sum(x * x, axis=1) + tl.sum(y * y, axis=1)
        z = rest.to(tl.float32)
        if ROTATED < WIDTH:
            squares += tl.sum(z * z, axis=1)
        scale = tl.rsqrt(squares / WIDTH + eps)[:, None]
        is_q = head < HEADS
        x = _normed(x, scale, query_norm_ptr, key_norm_ptr, lane, narrow, is_q, left.dtype)
        y = _normed(y, scale, query_norm_ptr, key_norm_ptr, HALF + lane, narrow, is_q, left.dtype)
        if ROTATED < WIDTH:
            z = _normed(z, scale, query_norm_ptr, key_norm_ptr, rest_lane, wide, is_q, left.dtype)
            new_rest = z.to(left.dtype)

    cosine_ptr = angles_ptr + row * ROTATED + lane
    sine_ptr = cosine_ptr + num_rows * ROTATED
    cosine_x = tl.load(cosine_ptr, mask=narrow, other=0.0)
    sine_x = tl.load(sine_ptr, mask=narrow, other=0.0)
    cosine_y = tl.load(cosine_ptr + HALF, mask=narrow, other=0.0)
    sine_y = tl.load(sine_ptr + HALF, mask=narrow, other=0.0)
    if ROUNDS:
        # Every operation rounds to the dtype of the model.
        turned_x = _rounded(x, cosine_x, left.dtype) - _rounded(y, sine_x, left.dtype)
        turned_y = _rounded(y, cosine_y, left.dtype) + _rounded(x, sine_y, left.dtype)
    else:
        turned_x = x * cosine_x
        turned_x -= y * sine_x
        turned_y = y * cosine_y
        turned_y += x * sine_y
    new_x, new_y = turned_x.to(left.dtype), turned_y.to(left.dtype)

    is_query = narrow & (head < HEADS)
    to_ptr = q_ptr + (row * HEADS + head) * WIDTH + lane
    tl.store(to_ptr, new_x, mask=is_query)
    tl.store(to_ptr + HALF, new_y, mask=is_query)
    if ROTATED < WIDTH:
        to_ptr = q_ptr + (row * HEADS + head) * WIDTH + rest_lane
        tl.store(to_ptr, new_rest, mask=wide & (head < HEADS))

    written = inside
    writes = head < TURNED + KV_HEADS
    if not ALL_WRITE:
        stays = tl.load(writes_ptr + tl.broadcast_to(row, (1, 1))) != 0
        written &= stays
        writes &= stays
    cell = tl.load(base_ptr + row) + tl.load(position_ptr + row)
    is_key = written & (head >= HEADS) & (head < TURNED)
    to_ptr = key_ptr + cell * key_stride_c
    to_ptr += (head - HEADS) * key_stride_u + lane
    tl.store(to_ptr, new_x, mask=is_key)
    tl.store(to_ptr + HALF, new_y, mask=is_key)
    if ROTATED < WIDTH:
        to_ptr = key_ptr + cell * key_stride_c + (head - HEADS) * key_stride_u + rest_lane
        tl.store(to_ptr, new_rest, mask=wide & writes & (head >= HEADS) & (head < TURNED))

    is_value = written & (head >= TURNED)
    to_ptr = value_ptr + cell * value_stride_c
    to_ptr += (head - TURNED) * value_stride_u + lane
    tl.store(to_ptr, left, mask=is_value)
    tl.store(to_ptr + HALF, right, mask=is_value)
    if ROTATED < WIDTH:
        to_ptr = value_ptr + cell * value_stride_c + (head - TURNED) * value_stride_u + rest_lane
        tl.store(to_ptr, rest, mask=wide & writes & (head >= TURNED))


def rms_norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """As ``reference.rms_norm``, for float32 and shorter."""
    x_ND = x_ND.contiguous()
    normed_ND = torch.empty_like(x_ND)
    _launch_norm(x_ND, None, weight_D, normed_ND, normed_ND, eps)
    return normed_ND


def add_rms_norm(
    x_ND: Tensor, delta_ND: Tensor, weight_D: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """As ``reference.add_rms_norm``, for float32 and shorter."""
    x_ND = x_ND.contiguous()
    sum_ND, normed_ND = torch.empty_like(x_ND), torch.empty_like(x_ND)
    _launch_norm(x_ND, delta_ND.contiguous(), weight_D, sum_ND, normed_ND, eps)
    return sum_ND, normed_ND


def _launch_norm(
    x_ND: Tensor,
    delta_ND: Tensor | None,
    weight_D: Tensor,
    sum_ND: Tensor,
    normed_ND: Tensor,
    eps: float,
) -> None:
    num_rows, width = x_ND.shape
    block = triton.next_power_of_2(width)
    _norm_kernel[(num_rows,)](
        x_ND,
        x_ND if delta_ND is None else delta_ND,
        weight_D,
        sum_ND,
        normed_ND,
        eps,
        WIDTH=width,
        BLOCK=block,
        ADDS=delta_ND is not None,
        num_warps=min(16, max(1, block // 512)),
        **triton_early.options(x_ND),
    )


def swiglu(gate_up_NM: Tensor) -> Tensor:
    """As ``reference.swiglu``, for float32 and shorter."""
    gate_up_NM = gate_up_NM.contiguous()
    num_rows, both = gate_up_NM.shape
    width = both // 2
    out_NM = gate_up_NM.new_empty(num_rows, width)
    block = min(2048, triton.next_power_of_2(width))
    grid = (num_rows, triton.cdiv(width, block))
    early = triton_early.options(gate_up_NM)
    _swiglu_kernel[grid](gate_up_NM, out_NM, WIDTH=width, BLOCK=block, num_warps=4, **early)
    return out_NM


def rotate_and_write(
    qkv_NHE: Tensor,
    angles_2NR: Tensor,
    key_CUE: Tensor,
    value_CUE: Tensor,
    rows: Rows,
    norms: HeadNorms | None = None,
) -> Tensor:
    """As ``reference.rotate_and_write``, for float32 and shorter; a store may be a strided view."""
    assert key_CUE.stride(-1) == value_CUE.stride(-1) == 1
    num_rows, all_heads, width = qkv_NHE.shape
    if qkv_NHE.stride()[1:] != (width, 1):
        qkv_NHE = qkv_NHE.contiguous()
    kv_heads = key_CUE.shape[1]
    heads = all_heads - 2 * kv_heads
    q_NHE = qkv_NHE.new_empty(num_rows, heads, width)
    rotated, block_heads = angles_2NR.shape[-1], 16
    _rotate_and_write_kernel[(num_rows, triton.cdiv(all_heads, block_heads))](
        qkv_NHE,
        angles_2NR.contiguous(),
        q_NHE,
        key_CUE,
        value_CUE,
        rows.base_N,
        rows.position_N,
        rows.base_N if rows.writes_N is None else rows.writes_N.view(torch.int8),
        qkv_NHE if norms is None else norms.query_E,
        qkv_NHE if norms is None else norms.key_E,
        qkv_NHE.stride(0),
        key_CUE.stride(0),
        key_CUE.stride(1),
        value_CUE.stride(0),
        value_CUE.stride(1),
        num_rows,
        0.0 if norms is None else norms.eps,
        HEADS=heads,
        KV_HEADS=kv_heads,
        WIDTH=width,
        ROTATED=rotated,
        BLOCK_HEADS=block_heads,
        BLOCK_HALF=triton.next_power_of_2(rotated // 2),
        BLOCK_REST=triton.next_power_of_2(max(1, width - rotated)),
        ALL_WRITE=rows.writes_N is None,
        NORMS=norms is not None,
        ROUNDS=angles_2NR.dtype != torch.float32,
        num_warps=4,
        **triton_early.options(qkv_NHE),
    )
    return q_NHE
