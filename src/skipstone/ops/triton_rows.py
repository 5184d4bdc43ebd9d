"""Triton kernels for what is done row by row: norm, SwiGLU, rotation and the write of K/V.

Each reads its input once and rounds where the reference rounds.

Shape letters as in ``reference``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

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
):
    """One program normalises one row."""
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
def _swiglu_kernel(gate_up_ptr, out_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """One program gates one block of one row."""
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
def _rotate_kernel(
    x_ptr,
    angles_ptr,
    out_ptr,
    row_stride,
    num_rows,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """One program rotates some heads of one row, as a left and a right half."""
    HALF: tl.constexpr = WIDTH // 2
    row = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS))[:, None]
    lane = tl.arange(0, BLOCK_HALF)[None, :]
    inside = (head < HEADS) & (lane < HALF)
    left_ptr = x_ptr + row * row_stride + head * WIDTH + lane
    left = tl.load(left_ptr, mask=inside, other=0.0)
    right = tl.load(left_ptr + HALF, mask=inside, other=0.0)

    cosine_ptr = angles_ptr + row * WIDTH + lane
    sine_ptr = cosine_ptr + num_rows * WIDTH
    narrow = lane < HALF
    x, y = left.to(tl.float32), right.to(tl.float32)
    turned_x = x * tl.load(cosine_ptr, mask=narrow, other=0.0)
    turned_x -= y * tl.load(sine_ptr, mask=narrow, other=0.0)
    turned_y = y * tl.load(cosine_ptr + HALF, mask=narrow, other=0.0)
    turned_y += x * tl.load(sine_ptr + HALF, mask=narrow, other=0.0)

    to_ptr = out_ptr + (row * HEADS + head) * WIDTH + lane
    tl.store(to_ptr, turned_x.to(left.dtype), mask=inside)
    tl.store(to_ptr + HALF, turned_y.to(left.dtype), mask=inside)


@triton.jit
def _write_kernel(
    key_ptr,
    value_ptr,
    new_key_ptr,
    new_value_ptr,
    request_ptr,
    position_ptr,
    length,
    key_stride,
    value_stride,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program copies a part of one row's key and of its value to their place."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    place = tl.load(request_ptr + row) * length + tl.load(position_ptr + row)
    to = place * WIDTH + column
    key = tl.load(new_key_ptr + row * key_stride + column, mask=inside)
    value = tl.load(new_value_ptr + row * value_stride + column, mask=inside)
    tl.store(key_ptr + to, key, mask=inside)
    tl.store(value_ptr + to, value, mask=inside)


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
    )


def swiglu(gate_up_NM: Tensor) -> Tensor:
    """As ``reference.swiglu``, for float32 and shorter."""
    gate_up_NM = gate_up_NM.contiguous()
    num_rows, both = gate_up_NM.shape
    width = both // 2
    out_NM = gate_up_NM.new_empty(num_rows, width)
    block = min(2048, triton.next_power_of_2(width))
    grid = (num_rows, triton.cdiv(width, block))
    _swiglu_kernel[grid](gate_up_NM, out_NM, WIDTH=width, BLOCK=block, num_warps=4)
    return out_NM


def rotate(x_NHE: Tensor, angles_2NE: Tensor) -> Tensor:
    """As ``reference.rotate``, for float32 and shorter; rows may be apart, as a slice of qkv is."""
    num_rows, heads, width = x_NHE.shape
    if x_NHE.stride()[1:] != (width, 1):
        x_NHE = x_NHE.contiguous()
    out_NHE = x_NHE.new_empty(num_rows, heads, width)
    block_heads = 16
    _rotate_kernel[(num_rows, triton.cdiv(heads, block_heads))](
        x_NHE,
        angles_2NE.contiguous(),
        out_NHE,
        x_NHE.stride(0),
        num_rows,
        HEADS=heads,
        WIDTH=width,
        BLOCK_HEADS=block_heads,
        BLOCK_HALF=triton.next_power_of_2(width // 2),
        num_warps=4,
    )
    return out_NHE


def write_rows(
    key_BLUE: Tensor, value_BLUE: Tensor, rows: Rows, new_key_NUE: Tensor, new_value_NUE: Tensor
) -> None:
    """As ``reference.write_rows``; rows of the new ones may be apart, as slices of qkv are."""
    assert key_BLUE.is_contiguous()
    assert value_BLUE.is_contiguous()
    num_rows, heads, head_width = new_key_NUE.shape
    new_key_NUE, new_value_NUE = (
        new if new.stride()[1:] == (head_width, 1) else new.contiguous()
        for new in (new_key_NUE, new_value_NUE)
    )
    width = heads * head_width
    block = min(1024, triton.next_power_of_2(width))
    _write_kernel[(num_rows, triton.cdiv(width, block))](
        key_BLUE,
        value_BLUE,
        new_key_NUE,
        new_value_NUE,
        rows.request_N,
        rows.position_N,
        key_BLUE.shape[1],
        new_key_NUE.stride(0),
        new_value_NUE.stride(0),
        WIDTH=width,
        BLOCK=block,
        num_warps=4,
    )
