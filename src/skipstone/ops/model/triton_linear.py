"""Triton kernels for products of few rows, which take as long as reading the weight takes.

The weight streams through shared memory in tiles [BLOCK_O, BLOCK_K]; the rows, padded to 16, 32 or
64, are the narrow side of each tile's product. What follows a product is done before its result
leaves the program, and where outputs are too few to fill a card, the inner width is split: partial
sums go to a workspace that stays in L2, and the kernel that follows adds them up in a fixed order.
While the kernel before runs out, a program that started early asks for its first tiles.

Shape letters: N rows, K inner width, O outputs, M gate and up together, D model width, S splits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from skipstone.ops import triton_early
from skipstone.ops.triton_early import wait_for_inputs

MOST_ROWS = 64
"""With more, a product is bound by more than its weight, and libraries do as well."""


@dataclass(frozen=True)
class Config:
    """How a product is cut; every choice gives the same result, up to the order of its sums."""

    block_o: int
    """Weight rows of a program; of each half, where gate and up are computed together."""
    block_k: int
    """Inner width of a tile."""
    num_stages: int
    """Tiles in flight."""
    splits: int = 1
    """Programs that share the inner width, for the products whose sums are added up later."""
    num_warps: int = 4
    tma: bool = False
    """Whether tiles are read through tensor descriptors."""


_CONFIGS = {
    ("linear", 16): Config(64, 256, 4, tma=True),
    ("linear", 32): Config(64, 256, 4, tma=True),
    ("linear", 64): Config(128, 128, 4, tma=True),
    ("linear_swiglu", 16): Config(64, 128, 5, tma=True),
    ("linear_swiglu", 32): Config(64, 128, 5, tma=True),
    ("linear_swiglu", 64): Config(64, 128, 4, tma=True),
    ("linear_add", 16): Config(64, 256, 4, splits=2, tma=True),
    ("linear_add", 32): Config(64, 256, 4, splits=2, tma=True),
    ("linear_add", 64): Config(64, 128, 6, splits=2, tma=True),
}
"""What to take for an operation and a number of rows, padded: measured best on an H100 at
the shapes of LLaDA-8B and, from 33 rows on, of Dream-7B by ``python -m tuning``. Splits are the
same for all, so that a row's sums do not depend on how many rows are beside it."""


@triton.jit
def _tile(
    source,
    row,
    num_rows,
    at,
    width,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    TMA: tl.constexpr,
    POLICY: tl.constexpr,
):
    """A tile [ROWS, BLOCK_K] of a matrix, zero beyond its width."""
    if TMA:
        tile = source.load([row, at])
    else:
        # Beyond the last row it is repeated: what is computed from it is never stored.
        index = tl.minimum(row + tl.arange(0, ROWS), num_rows - 1).to(tl.int64)
        column = at + tl.arange(0, BLOCK_K)
        where = source + index[:, None] * width + column[None, :]
        if EVEN_K:
            tile = tl.load(where, eviction_policy=POLICY)
        else:
            inside = column[None, :] < width
            tile = tl.load(where, mask=inside, other=0.0, eviction_policy=POLICY)
    return tile


@triton.jit
def _plus_product(acc, w, rows, WIDEN: tl.constexpr):
    """Add the product of a weight tile with a tile of rows, [ROWS, BLOCK_K]."""
    if WIDEN:
        w, rows = w.to(tl.float32), rows.to(tl.float32)
    return tl.dot(w, tl.trans(rows), acc, input_precision="ieee")


@triton.jit
def _ask_l2(address, num_bytes):
    """Ask for as many bytes from each address on to be in L2 soon."""
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;",
        "=r,l,r",
        [address, num_bytes],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _ask_ahead(weight_ptr, row, num_outputs, first, width, ROWS: tl.constexpr, AHEAD: tl.constexpr):
    """Ask for the first AHEAD bytes of some rows of a weight."""
    if AHEAD > 0:
        # In four parts, so that there is one for each thread: fewer would be asked for twice.
        index = tl.minimum(row + tl.arange(0, ROWS), num_outputs - 1).to(tl.int64)
        where = (weight_ptr + index * width + first)[:, None].to(tl.int64)
        where += tl.arange(0, 4)[None, :] * (AHEAD // 4)
        _ask_l2(where, tl.full((ROWS, 4), AHEAD // 4, tl.int32))


@triton.jit
def _plus_bias(acc, bias_ptr, row, num_outputs, BLOCK_O: tl.constexpr):
    """Add the bias of each output to its sums [BLOCK_O, ROWS]."""
    output = row + tl.arange(0, BLOCK_O)
    bias = tl.load(bias_ptr + output, mask=output < num_outputs, other=0.0)
    return acc + bias.to(tl.float32)[:, None]


@triton.jit
def _store(out_ptr, acc, row, num_rows, num_outputs, ROWS: tl.constexpr, BLOCK_O: tl.constexpr):
    """Store sums [BLOCK_O, ROWS] into [num_rows, num_outputs]."""
    output = row + tl.arange(0, BLOCK_O)[:, None]
    n = tl.arange(0, ROWS)[None, :]
    inside = (output < num_outputs) & (n < num_rows)
    where = out_ptr + n.to(tl.int64) * num_outputs + output
    tl.store(where, acc.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def _linear_kernel(
    x,
    weight,
    weight_ptr,
    bias_ptr,
    out_ptr,
    num_rows,
    num_outputs,
    width,
    width_of_split,
    ROWS: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    TMA: tl.constexpr,
    AHEAD: tl.constexpr,
    WIDEN: tl.constexpr,
    EARLY: tl.constexpr,
    BIAS: tl.constexpr,
):
    """One program computes BLOCK_O outputs of all rows, over one part of the inner width."""
    row, split = tl.program_id(0) * BLOCK_O, tl.program_id(1)
    first = split * width_of_split
    last = tl.minimum(first + width_of_split, width)
    # Weights do not depend on the kernel before.
    _ask_ahead(weight_ptr, row, num_outputs, first, width, BLOCK_O, AHEAD)
    wait_for_inputs(EARLY)
    acc = tl.zeros((BLOCK_O, ROWS), tl.float32)
    for at in tl.range(first, last, BLOCK_K):
        w = _tile(weight, row, num_outputs, at, width, BLOCK_O, BLOCK_K, EVEN_K, TMA, "evict_first")
        rows = _tile(x, 0, num_rows, at, width, ROWS, BLOCK_K, EVEN_K, TMA, "evict_last")
        acc = _plus_product(acc, w, rows, WIDEN)
    if BIAS:
        acc = _plus_bias(acc, bias_ptr, row, num_outputs, BLOCK_O)
    part_ptr = out_ptr + split.to(tl.int64) * num_rows * num_outputs
    _store(part_ptr, acc, row, num_rows, num_outputs, ROWS, BLOCK_O)


@triton.jit(do_not_specialize=["num_rows"])
def _swiglu_kernel(
    x,
    weight,
    weight_ptr,
    out_ptr,
    num_rows,
    num_outputs,
    width,
    ROWS: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    TMA: tl.constexpr,
    AHEAD: tl.constexpr,
    WIDEN: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One program computes BLOCK_O gates and the matching ups of all rows, and gates."""
    row = tl.program_id(0) * BLOCK_O
    both = 2 * num_outputs
    # Weights do not depend on the kernel before.
    _ask_ahead(weight_ptr, row, both, 0, width, BLOCK_O, AHEAD)
    _ask_ahead(weight_ptr, num_outputs + row, both, 0, width, BLOCK_O, AHEAD)
    wait_for_inputs(EARLY)
    gate = tl.zeros((BLOCK_O, ROWS), tl.float32)
    up = tl.zeros((BLOCK_O, ROWS), tl.float32)
    for at in tl.range(0, width, BLOCK_K):
        gate_w = _tile(weight, row, both, at, width, BLOCK_O, BLOCK_K, EVEN_K, TMA, "evict_first")
        up_w = _tile(
            weight, num_outputs + row, both, at, width, BLOCK_O, BLOCK_K, EVEN_K, TMA, "evict_first"
        )
        rows = _tile(x, 0, num_rows, at, width, ROWS, BLOCK_K, EVEN_K, TMA, "evict_last")
        gate = _plus_product(gate, gate_w, rows, WIDEN)
        up = _plus_product(up, up_w, rows, WIDEN)
    # Rounded where the operations one by one would round.
    dtype = out_ptr.dtype.element_ty
    gate, up = gate.to(dtype).to(tl.float32), up.to(dtype).to(tl.float32)
    silu = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)
    _store(out_ptr, silu * up, row, num_rows, num_outputs, ROWS, BLOCK_O)


@triton.jit(do_not_specialize=["num_rows"])
def _sum_kernel(
    partial_ptr,
    x_ptr,
    norm_ptr,
    sum_ptr,
    normed_ptr,
    num_rows,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    NORMS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One program adds the parts of a product to one row, or to a part of it, and normalises."""
    wait_for_inputs(EARLY)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    at = row * WIDTH + column
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    product = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        part_ptr = partial_ptr + split * num_rows.to(tl.int64) * WIDTH
        product += tl.load(part_ptr + at, mask=inside, other=0.0)
    total = (x.to(tl.float32) + product.to(x.dtype).to(tl.float32)).to(x.dtype)
    tl.store(sum_ptr + at, total, mask=inside)
    if NORMS:
        wide = total.to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / WIDTH + eps)
        unit = (wide * scale).to(x.dtype).to(tl.float32)
        norm = tl.load(norm_ptr + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(normed_ptr + at, (norm * unit).to(x.dtype), mask=inside)


def linear(
    x_NK: Tensor, weight_OK: Tensor, bias_O: Tensor | None = None, *, config: Config | None = None
) -> Tensor:
    """As ``reference.linear``, for 1 to 64 rows.

    Args:
        x_NK: the rows.
        weight_OK: contiguous.
        bias_O: added to each output.
        config: how to cut the product; None for what measured best.

    Returns:
        [N, O].
    """
    out_NO = x_NK.new_empty(x_NK.shape[0], weight_OK.shape[0])
    config = config or _chosen("linear", x_NK, weight_OK)
    assert config.splits == 1
    _launch_linear(x_NK, weight_OK, out_NO, config, bias_O)
    return out_NO


def linear_float32(x_NK: Tensor, weight_OK: Tensor) -> Tensor:
    """Products [N, O] that are not rounded to the dtype of their factors; see ``linear``."""
    out_NO = x_NK.new_empty(x_NK.shape[0], weight_OK.shape[0], dtype=torch.float32)
    _launch_linear(x_NK, weight_OK, out_NO, _chosen("linear", x_NK, weight_OK))
    return out_NO


def linear_swiglu(x_NK: Tensor, gate_up_MK: Tensor, *, config: Config | None = None) -> Tensor:
    """As ``reference.linear_swiglu``, giving [N, M/2]; see ``linear``."""
    config = config or _chosen("linear_swiglu", x_NK, gate_up_MK)
    x_NK = x_NK.contiguous()
    num_rows, width = x_NK.shape
    num_outputs = gate_up_MK.shape[0] // 2
    out_NO = x_NK.new_empty(num_rows, num_outputs)
    _swiglu_kernel[(triton.cdiv(num_outputs, config.block_o),)](
        *_operands(x_NK, gate_up_MK, config),
        out_NO,
        num_rows,
        num_outputs,
        width,
        **_constants(num_rows, width, 1, gate_up_MK, config),
    )
    return out_NO


def linear_add(
    x_ND: Tensor, input_NK: Tensor, weight_DK: Tensor, *, config: Config | None = None
) -> Tensor:
    """As ``reference.linear_add``, giving [N, D]; see ``linear``."""
    config = config or _chosen("linear_add", input_NK, weight_DK)
    partial_SND = _partial(input_NK, weight_DK, config)
    return _sum_up(partial_SND, x_ND, None, 0.0)[0]


def linear_add_rms_norm(
    x_ND: Tensor,
    input_NK: Tensor,
    weight_DK: Tensor,
    norm_D: Tensor,
    eps: float,
    *,
    config: Config | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``reference.linear_add_rms_norm``, giving [N, D] twice; see ``linear``."""
    config = config or _chosen("linear_add", input_NK, weight_DK)
    partial_SND = _partial(input_NK, weight_DK, config)
    return _sum_up(partial_SND, x_ND, norm_D, eps)


def _partial(input_NK: Tensor, weight_DK: Tensor, config: Config) -> Tensor:
    """Parts [S, N, D] of a product, in float32."""
    shape = (config.splits, input_NK.shape[0], weight_DK.shape[0])
    partial_SND = input_NK.new_empty(shape, dtype=torch.float32)
    _launch_linear(input_NK, weight_DK, partial_SND, config)
    return partial_SND


def _sum_up(
    partial_SND: Tensor, x_ND: Tensor, norm_D: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """The sum and, given its weight, its norm."""
    x_ND = x_ND.contiguous()
    splits, num_rows, width = partial_SND.shape
    sum_ND = torch.empty_like(x_ND)
    normed_ND = sum_ND if norm_D is None else torch.empty_like(x_ND)
    block = triton.next_power_of_2(width)
    if norm_D is None:
        block = min(block, 1024)
    _sum_kernel[(num_rows, triton.cdiv(width, block))](
        partial_SND,
        x_ND,
        x_ND if norm_D is None else norm_D,
        sum_ND,
        normed_ND,
        num_rows,
        eps,
        WIDTH=width,
        BLOCK=block,
        SPLITS=splits,
        NORMS=norm_D is not None,
        num_warps=min(16, max(1, block // 256)),
        **triton_early.options(x_ND),
    )
    return sum_ND, normed_ND


def _launch_linear(
    x_NK: Tensor, weight_OK: Tensor, out: Tensor, config: Config, bias_O: Tensor | None = None
) -> None:
    """Write products [N, O] into ``out``, or their parts [S, N, O]."""
    x_NK = x_NK.contiguous()
    num_rows, width = x_NK.shape
    num_outputs = weight_OK.shape[0]
    # Splits meet between tiles, so that no tile reaches into the next split.
    width_of_split = config.block_k * triton.cdiv(width, config.block_k * config.splits)
    _linear_kernel[(triton.cdiv(num_outputs, config.block_o), config.splits)](
        *_operands(x_NK, weight_OK, config),
        weight_OK if bias_O is None else bias_O,
        out,
        num_rows,
        num_outputs,
        width,
        width_of_split,
        **_constants(num_rows, width, config.splits, weight_OK, config),
        BIAS=bias_O is not None,
    )


def _chosen(operation: str, x_NK: Tensor, weight_OK: Tensor) -> Config:
    config = _CONFIGS[operation, _padded(x_NK.shape[0])]
    whole = weight_OK.shape[1] * weight_OK.itemsize % 16 == 0
    whole = whole and x_NK.data_ptr() % 16 == 0 and weight_OK.data_ptr() % 16 == 0
    # Descriptors take rows that begin at multiples of 16 bytes, and no others.
    return replace(config, tma=config.tma and whole)


def _padded(num_rows: int) -> int:
    """Rows of a tile: a kernel is compiled for each of these, not for each number of rows."""
    assert 1 <= num_rows <= MOST_ROWS
    return 16 if num_rows <= 16 else 32 if num_rows <= 32 else 64


def _operands(
    x_NK: Tensor, weight_OK: Tensor, config: Config
) -> tuple[Tensor | TensorDescriptor, Tensor | TensorDescriptor, Tensor]:
    """Both matrices as the kernel reads them, and where the weight begins."""
    assert weight_OK.is_contiguous()
    if not config.tma:
        return x_NK, weight_OK, weight_OK
    rows = _padded(x_NK.shape[0])
    return (
        TensorDescriptor.from_tensor(x_NK, [rows, config.block_k]),
        TensorDescriptor.from_tensor(weight_OK, [config.block_o, config.block_k]),
        weight_OK,
    )


def _constants(
    num_rows: int, width: int, splits: int, weight_OK: Tensor, config: Config
) -> dict[str, Any]:
    """What a product is compiled for."""
    ahead = config.num_stages * config.block_k
    # What is asked for begins at multiples of 16 bytes, and ends within a row.
    fits = width % (config.block_k * splits) == 0 and ahead * splits <= width
    fits = fits and weight_OK.data_ptr() % 16 == 0 and triton_early.starts_early(weight_OK)
    return {
        "ROWS": _padded(num_rows),
        "BLOCK_O": config.block_o,
        "BLOCK_K": config.block_k,
        "EVEN_K": width % config.block_k == 0,
        "TMA": config.tma,
        "AHEAD": ahead * weight_OK.itemsize if fits else 0,
        # The interpreter takes bfloat16 for integers in a product.
        "WIDEN": not weight_OK.is_cuda,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
        **triton_early.options(weight_OK),
    }
