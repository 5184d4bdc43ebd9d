"""Triton kernels for mixtures of experts: grouped products of rows sorted by expert.

Pairs of a row and one of its experts are sorted by expert; a tile is some pairs of one expert. How
many pairs an expert has is known to the device alone, so the grid is as large as it may have to be,
and each program finds its expert itself: there is nothing for the host to read, and a captured
graph serves every choice. A weight is read once for each tile of its expert: of few rows, once.

Sums over the inner width run in the same order for every tile, and those over the experts of a row
in the order in which they were chosen: a row gives the same beside any others.

Shape letters: N rows, K experts of a row, P = N K pairs, X experts, D model width, M width of an
expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from skipstone.ops import triton_early
from skipstone.ops.model.reference_experts import Chosen
from skipstone.ops.triton_early import wait_for_inputs


@dataclass(frozen=True)
class ExpertTiles:
    """How a grouped product is cut; every choice gives the same, up to the order of its sums."""

    rows: int
    """Pairs of a tile."""
    block_o: int
    """Weight rows of a program; of each half, where gate and up are computed together."""
    block_k: int
    """Inner width of a tile."""
    num_stages: int
    """Tiles in flight."""
    num_warps: int = 4
    tma: bool = False
    """Whether weights are read through tensor descriptors."""


@triton.jit(do_not_specialize=["num_pairs"])
def _sort_kernel(
    expert_ptr,
    pair_ptr,
    span_ptr,
    num_pairs,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One program lists the pairs of one expert behind those of all experts before it."""
    wait_for_inputs(EARLY)
    mine = tl.program_id(0)
    end = 0
    for at in range(0, num_pairs, BLOCK):
        index = at + tl.arange(0, BLOCK)
        expert = tl.load(expert_ptr + index, mask=index < num_pairs, other=EXPERTS)
        end += tl.sum((expert < mine).to(tl.int32), axis=0)
    tl.store(span_ptr + mine, end)
    for at in range(0, num_pairs, BLOCK):
        index = at + tl.arange(0, BLOCK)
        expert = tl.load(expert_ptr + index, mask=index < num_pairs, other=EXPERTS)
        is_mine = (expert == mine).to(tl.int32)
        where = end + tl.cumsum(is_mine, axis=0) - 1
        tl.store(pair_ptr + where, index, mask=is_mine == 1)
        end += tl.sum(is_mine, axis=0)
    tl.store(span_ptr + EXPERTS + mine, end)


@triton.jit
def _found(tile, span_ptr, EXPERTS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Expert of a tile, its first pair, and the end of the expert's; an empty range if unused."""
    x = tl.arange(0, BLOCK)
    first = tl.load(span_ptr + x, mask=x < EXPERTS, other=0)
    last = tl.load(span_ptr + EXPERTS + x, mask=x < EXPERTS, other=0)
    tiles = (last - first + ROWS - 1) // ROWS
    until = tl.cumsum(tiles, axis=0)
    expert = tl.sum((until <= tile).to(tl.int32), axis=0)
    is_it = x == expert
    before = tl.sum(tl.where(is_it, until - tiles, 0), axis=0)
    start = tl.sum(tl.where(is_it, first, 0), axis=0) + (tile - before) * ROWS
    end = tl.sum(tl.where(is_it, last, 0), axis=0)
    # Behind the last tile no expert is left.
    return expert, tl.where(expert < EXPERTS, start, 0), end


@triton.jit
def _weight_tile(
    source,
    row,
    num_rows,
    at,
    width,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    TMA: tl.constexpr,
):
    """A tile [ROWS, BLOCK_K] of weights from ``row`` on, zero beyond their width."""
    if TMA:
        tile = source.load([row.to(tl.int32), at])
    else:
        # Beyond the last row it is repeated: what is computed from it is never stored.
        index = tl.minimum(row + tl.arange(0, ROWS), num_rows - 1).to(tl.int64)
        tile = _rows_tile(source, index, at, width, BLOCK_K, EVEN_K)
    return tile


@triton.jit
def _rows_tile(source, index, at, width, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr):
    """A tile of the rows of these indices, zero beyond their width."""
    column = at + tl.arange(0, BLOCK_K)
    where = source + index[:, None] * width + column[None, :]
    # A mask is left out where it can be: with one, loads are not pipelined as well.
    return tl.load(where) if EVEN_K else tl.load(where, mask=column[None, :] < width, other=0.0)


@triton.jit
def _plus_product(acc, w, rows, WIDEN: tl.constexpr):
    """Add the product of a weight tile with a tile of rows, [ROWS, BLOCK_K]."""
    if WIDEN:
        w, rows = w.to(tl.float32), rows.to(tl.float32)
    return tl.dot(w, tl.trans(rows), acc, input_precision="ieee")


@triton.jit
def _store(out_ptr, acc, index, inside, row, num_outputs, BLOCK_O: tl.constexpr):
    """Store sums [BLOCK_O, ROWS] into the rows ``index`` of [..., num_outputs]."""
    output = row + tl.arange(0, BLOCK_O)[:, None]
    where = out_ptr + index[None, :].to(tl.int64) * num_outputs + output
    mask = (output < num_outputs) & inside[None, :]
    tl.store(where, acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _gate_up_kernel(
    x_ptr,
    weight,
    pair_ptr,
    span_ptr,
    out_ptr,
    num_outputs,
    width,
    TOP: tl.constexpr,
    EXPERTS: tl.constexpr,
    BLOCK_X: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    TMA: tl.constexpr,
    WIDEN: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One program computes BLOCK_O gates and the matching ups of a tile, and gates.

    Rows are gathered; what they give lies in the order of the sorted pairs.
    """
    wait_for_inputs(EARLY)
    row = tl.program_id(0) * BLOCK_O
    expert, start, end = _found(tl.program_id(1), span_ptr, EXPERTS, BLOCK_X, ROWS)
    if start < end:
        slot = start + tl.arange(0, ROWS)
        inside = slot < end
        index = (tl.load(pair_ptr + slot, mask=inside, other=0) // TOP).to(tl.int64)
        both = 2 * num_outputs
        gate_row, all_rows = expert * both + row, EXPERTS * both
        up_row = gate_row + num_outputs
        gate = tl.zeros((BLOCK_O, ROWS), tl.float32)
        up = tl.zeros((BLOCK_O, ROWS), tl.float32)
        for at in tl.range(0, width, BLOCK_K):
            gate_w = _weight_tile(
                weight, gate_row, all_rows, at, width, BLOCK_O, BLOCK_K, EVEN_K, TMA
            )
            up_w = _weight_tile(weight, up_row, all_rows, at, width, BLOCK_O, BLOCK_K, EVEN_K, TMA)
            rows = _rows_tile(x_ptr, index, at, width, BLOCK_K, EVEN_K)
            gate = _plus_product(gate, gate_w, rows, WIDEN)
            up = _plus_product(up, up_w, rows, WIDEN)
        # Rounded where the operations one by one would round.
        dtype = out_ptr.dtype.element_ty
        gate, up = gate.to(dtype).to(tl.float32), up.to(dtype).to(tl.float32)
        silu = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)
        _store(out_ptr, silu * up, slot, inside, row, num_outputs, BLOCK_O)


@triton.jit
def _down_kernel(
    h_ptr,
    weight,
    pair_ptr,
    span_ptr,
    out_ptr,
    num_outputs,
    width,
    EXPERTS: tl.constexpr,
    BLOCK_X: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    TMA: tl.constexpr,
    WIDEN: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One program computes BLOCK_O outputs of a tile, and stores them by pair, not as sorted."""
    wait_for_inputs(EARLY)
    row = tl.program_id(0) * BLOCK_O
    expert, start, end = _found(tl.program_id(1), span_ptr, EXPERTS, BLOCK_X, ROWS)
    if start < end:
        slot = start + tl.arange(0, ROWS)
        inside = slot < end
        pair = tl.load(pair_ptr + slot, mask=inside, other=0)
        index = tl.minimum(slot, end - 1).to(tl.int64)
        first, all_rows = expert * num_outputs + row, EXPERTS * num_outputs
        acc = tl.zeros((BLOCK_O, ROWS), tl.float32)
        for at in tl.range(0, width, BLOCK_K):
            w = _weight_tile(weight, first, all_rows, at, width, BLOCK_O, BLOCK_K, EVEN_K, TMA)
            rows = _rows_tile(h_ptr, index, at, width, BLOCK_K, EVEN_K)
            acc = _plus_product(acc, w, rows, WIDEN)
        _store(out_ptr, acc, pair, inside, row, num_outputs, BLOCK_O)


@triton.jit
def _sum_kernel(
    x_ptr,
    part_ptr,
    weight_ptr,
    out_ptr,
    width,
    TOP: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One program adds a part of what the experts of one row gave, by their weights."""
    wait_for_inputs(EARLY)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    total = tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(TOP):
        weight = tl.load(weight_ptr + row * TOP + k)
        # Of rows that count for nothing, nothing was computed.
        taken = inside & (tl.broadcast_to(weight, (BLOCK,)) != 0.0)
        part = tl.load(part_ptr + (row * TOP + k) * width + column, mask=taken, other=0.0)
        total += weight * part.to(tl.float32)
    x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0)
    total = x.to(tl.float32) + total.to(x.dtype).to(tl.float32)
    tl.store(out_ptr + row * width + column, total.to(x.dtype), mask=inside)


def experts_added(
    x_ND: Tensor,
    normed_ND: Tensor,
    chosen: Chosen,
    gate_up_XMD: Tensor,
    down_XDM: Tensor,
    *,
    tiles: ExpertTiles | None = None,
) -> Tensor:
    """As ``reference_experts.experts_added``.

    Args:
        x_ND: the residual stream.
        normed_ND: what experts read.
        chosen: the experts of each row.
        gate_up_XMD: contiguous.
        down_XDM: contiguous.
        tiles: how to cut the products; None for what suits the number of rows.
    """
    x_ND, normed_ND = x_ND.contiguous(), normed_ND.contiguous()
    num_rows, top_k = chosen.expert_NK.shape
    num_experts, width, hidden = down_XDM.shape
    tiles = tiles or _chosen_tiles(num_rows, top_k, gate_up_XMD, down_XDM)
    pair_P, span_2X = _sorted(chosen.expert_NK, num_experts)
    grid = _most_tiles(num_rows * top_k, num_experts, tiles.rows)
    h_PM = normed_ND.new_empty(num_rows * top_k, hidden)
    _gate_up_kernel[(triton.cdiv(hidden, tiles.block_o), grid)](
        normed_ND,
        _source(gate_up_XMD, tiles),
        pair_P,
        span_2X,
        h_PM,
        hidden,
        width,
        TOP=top_k,
        **_constants(gate_up_XMD, tiles),
    )
    part_PD = normed_ND.new_empty(num_rows * top_k, width)
    _down_kernel[(triton.cdiv(width, tiles.block_o), grid)](
        h_PM,
        _source(down_XDM, tiles),
        pair_P,
        span_2X,
        part_PD,
        width,
        hidden,
        **_constants(down_XDM, tiles),
    )
    out_ND = torch.empty_like(x_ND)
    block = min(1024, triton.next_power_of_2(width))
    _sum_kernel[(num_rows, triton.cdiv(width, block))](
        x_ND,
        part_PD,
        chosen.weight_NK.contiguous(),
        out_ND,
        width,
        TOP=top_k,
        BLOCK=block,
        num_warps=4,
        **triton_early.options(x_ND),
    )
    return out_ND


def _sorted(expert_NK: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """Pairs [P] by expert, and where those of each begin and end: int32 [2 X]."""
    expert_NK = expert_NK.contiguous()
    pair_P = expert_NK.new_empty(expert_NK.numel())
    span_2X = expert_NK.new_empty(2 * num_experts)
    _sort_kernel[(num_experts,)](
        expert_NK,
        pair_P,
        span_2X,
        expert_NK.numel(),
        EXPERTS=num_experts,
        BLOCK=min(1024, triton.next_power_of_2(expert_NK.numel())),
        num_warps=4,
        **triton_early.options(expert_NK),
    )
    return pair_P, span_2X


def _most_tiles(num_pairs: int, num_experts: int, rows: int) -> int:
    """Tiles that any choice of experts may need: each that is hit may have one that is not full."""
    hit = min(num_pairs, num_experts)
    return hit + (num_pairs - hit) // rows


def _chosen_tiles(num_rows: int, top_k: int, gate_up_XMD: Tensor, down_XDM: Tensor) -> ExpertTiles:
    mean = num_rows * top_k / len(gate_up_XMD)
    # A row chooses an expert once.
    rows = min(128, max(16, min(triton.next_power_of_2(num_rows), _power_above(1.25 * mean))))
    wide = gate_up_XMD.itemsize > 2
    if wide or not _is_hopper(gate_up_XMD.device):
        return ExpertTiles(min(rows, 64), 64, 32 if wide else 64, 3)
    # Descriptors take rows that begin at multiples of 16 bytes, and no others.
    weights = (gate_up_XMD, down_XDM)
    tma = all(w.shape[-1] * w.itemsize % 16 == 0 and w.data_ptr() % 16 == 0 for w in weights)
    if rows <= 32:
        # Small enough for two programs to share a processor: one reads while the other ends.
        return ExpertTiles(rows, 64, 128 if rows == 16 else 64, 3, tma=tma)
    return ExpertTiles(rows, 128, 64, 3, num_warps=8 if rows == 128 else 4, tma=tma)


def _power_above(value: float) -> int:
    return triton.next_power_of_2(max(1, int(value)))


@cache
def _is_hopper(device: torch.device) -> bool:
    # AMD's cards count their capabilities differently.
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) == (9, 0)


def _source(weight: Tensor, tiles: ExpertTiles) -> Tensor | TensorDescriptor:
    """Weights of all experts as a kernel reads them."""
    assert weight.is_contiguous()
    if not tiles.tma:
        return weight
    return TensorDescriptor.from_tensor(weight.flatten(0, 1), [tiles.block_o, tiles.block_k])


def _constants(weight: Tensor, tiles: ExpertTiles) -> dict[str, Any]:
    """What a product is compiled for."""
    num_experts, _, width = weight.shape
    return {
        "EXPERTS": num_experts,
        "BLOCK_X": triton.next_power_of_2(num_experts),
        "ROWS": tiles.rows,
        "BLOCK_O": tiles.block_o,
        "BLOCK_K": tiles.block_k,
        "EVEN_K": width % tiles.block_k == 0,
        "TMA": tiles.tma,
        # The interpreter takes bfloat16 for integers in a product.
        "WIDEN": not weight.is_cuda,
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
        **triton_early.options(weight),
    }
