"""The operations of layers, as models call them: each is computed by whoever is fastest here.

Shape letters as in ``reference``.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skipstone.ops.backend import refusal
from skipstone.ops.model import attention_work, reference, reference_experts
from skipstone.ops.model.reference import HeadNorms, normed, rotary_tables
from skipstone.ops.model.reference_experts import Chosen, Router
from skipstone.rows import Rows

__all__ = [
    "FAR",
    "MOST_ROWS_OF_KERNEL",
    "CapturedAttention",
    "Chosen",
    "HeadNorms",
    "Router",
    "add_rms_norm",
    "attend",
    "attends_by_tensors",
    "choose",
    "experts_added",
    "left_to_torch",
    "linear",
    "linear_add",
    "linear_add_rms_norm",
    "linear_swiglu",
    "may_split",
    "normed",
    "rms_norm",
    "rotary_tables",
    "rotate_and_write",
    "router_logits",
    "splits_keys",
    "swiglu",
]

# From here on PyTorch's attention is faster, if it can take rows as they lie and nothing is hidden.
MOST_ROWS_OF_KERNEL = 64
# What the kernels of few rows take at most; with more, libraries do as well.
_FEW_ROWS = 64


def _few(x_NK: Tensor) -> bool:
    """Whether the kernels for few rows compute products of ``x_NK``."""
    if refusal(x_NK) or not 1 <= x_NK.shape[0] <= _FEW_ROWS:
        return False
    # They are cut for shared memory and tensor cores of these cards, and for 16 bits.
    return not x_NK.is_cuda or (x_NK.dtype != torch.float32 and _is_hopper(x_NK.device))


@cache
def _is_hopper(device: torch.device) -> bool:
    # AMD's cards count their capabilities differently.
    return torch.version.hip is None and torch.cuda.get_device_capability(device) == (9, 0)


def rms_norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """See ``reference.rms_norm``."""
    if refusal(x_ND):
        return reference.rms_norm(x_ND, weight_D, eps)
    from skipstone.ops.model import triton_rows

    return triton_rows.rms_norm(x_ND, weight_D, eps)


def add_rms_norm(
    x_ND: Tensor, delta_ND: Tensor, weight_D: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See ``reference.add_rms_norm``."""
    if refusal(x_ND):
        return reference.add_rms_norm(x_ND, delta_ND, weight_D, eps)
    from skipstone.ops.model import triton_rows

    return triton_rows.add_rms_norm(x_ND, delta_ND, weight_D, eps)


def swiglu(gate_up_NM: Tensor) -> Tensor:
    """See ``reference.swiglu``."""
    if refusal(gate_up_NM):
        return reference.swiglu(gate_up_NM)
    from skipstone.ops.model import triton_rows

    return triton_rows.swiglu(gate_up_NM)


def linear(
    x_NK: Tensor, weight_OK: Tensor, bias_O: Tensor | None = None, scale_O: Tensor | None = None
) -> Tensor:
    """See ``reference.linear``; no kernel computes scaled weights."""
    if scale_O is not None or not _few(x_NK):
        return reference.linear(x_NK, weight_OK, bias_O, scale_O)
    from skipstone.ops.model import triton_linear

    return triton_linear.linear(x_NK, weight_OK, bias_O)


def linear_swiglu(
    x_NK: Tensor, gate_up_MK: Tensor, bias_M: Tensor | None = None, scale_M: Tensor | None = None
) -> Tensor:
    """See ``reference.linear_swiglu``; with a bias or a scale, one operation after the other."""
    if bias_M is not None or scale_M is not None or not _few(x_NK):
        return swiglu(linear(x_NK, gate_up_MK, bias_M, scale_M))
    from skipstone.ops.model import triton_linear

    return triton_linear.linear_swiglu(x_NK, gate_up_MK)


def linear_add(
    x_ND: Tensor,
    input_NK: Tensor,
    weight_DK: Tensor,
    bias_D: Tensor | None = None,
    scale_D: Tensor | None = None,
) -> Tensor:
    """See ``reference.linear_add``; with a bias or a scale, one operation after the other."""
    if bias_D is not None or scale_D is not None or not _few(x_ND):
        return x_ND + linear(input_NK, weight_DK, bias_D, scale_D)
    from skipstone.ops.model import triton_linear

    return triton_linear.linear_add(x_ND, input_NK, weight_DK)


def linear_add_rms_norm(
    x_ND: Tensor,
    input_NK: Tensor,
    weight_DK: Tensor,
    norm_D: Tensor,
    eps: float,
    bias_D: Tensor | None = None,
    scale_D: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See ``reference.linear_add_rms_norm``; with a bias or a scale, one after the other."""
    if bias_D is not None or scale_D is not None or not _few(x_ND):
        return add_rms_norm(x_ND, linear(input_NK, weight_DK, bias_D, scale_D), norm_D, eps)
    from skipstone.ops.model import triton_linear

    return triton_linear.linear_add_rms_norm(x_ND, input_NK, weight_DK, norm_D, eps)


def router_logits(x_ND: Tensor, gate_XD: Tensor) -> Tensor:
    """See ``reference_experts.router_logits``."""
    if not _few(x_ND):
        return reference_experts.router_logits(x_ND, gate_XD)
    from skipstone.ops.model import triton_linear

    return triton_linear.linear_float32(x_ND, gate_XD)


def choose(
    logits_NX: Tensor, bias_X: Tensor | None, router: Router, counts_N: Tensor | None = None
) -> Chosen:
    """See ``reference_experts.choose``."""
    if refusal(logits_NX):
        return reference_experts.choose(logits_NX, bias_X, router, counts_N)
    from skipstone.ops.model import triton_router

    return triton_router.choose(logits_NX, bias_X, router, counts_N)


def experts_added(
    x_ND: Tensor, normed_ND: Tensor, chosen: Chosen, gate_up_XMD: Tensor, down_XDM: Tensor
) -> Tensor:
    """See ``reference_experts.experts_added``."""
    if refusal(x_ND):
        return reference_experts.experts_added(x_ND, normed_ND, chosen, gate_up_XMD, down_XDM)
    from skipstone.ops.model import triton_experts

    return triton_experts.experts_added(x_ND, normed_ND, chosen, gate_up_XMD, down_XDM)


def rotate_and_write(
    qkv_NHE: Tensor,
    angles_2NR: Tensor,
    key_CUE: Tensor,
    value_CUE: Tensor,
    rows: Rows,
    norms: HeadNorms | None = None,
) -> Tensor:
    """See ``reference.rotate_and_write``."""
    if refusal(qkv_NHE):
        return reference.rotate_and_write(qkv_NHE, angles_2NR, key_CUE, value_CUE, rows, norms)
    from skipstone.ops.model import triton_rows

    return triton_rows.rotate_and_write(qkv_NHE, angles_2NR, key_CUE, value_CUE, rows, norms)


def attend(
    q_NHE: Tensor,
    key_CUE: Tensor,
    value_CUE: Tensor,
    rows: Rows,
    visible_BL: Tensor | None = None,
) -> Tensor:
    """See ``reference.attend``; padding rows of a captured graph give zeros."""
    if not attends_by_tensors(q_NHE) or left_to_torch(rows, visible_BL):
        return reference.attend(q_NHE, key_CUE, value_CUE, rows, visible_BL)
    from skipstone.ops.model import triton_attend

    return triton_attend.attend(q_NHE, key_CUE, value_CUE, rows, visible_BL)


def splits_keys(rows: Rows) -> bool:
    """Whether attention may split the keys that these rows see.

    This is all that a captured graph must know of lengths.
    """
    return attention_work.splits(rows)


def may_split(num_rows: int) -> bool:
    """Whether attention of so many rows, padding included, may split keys."""
    return num_rows <= attention_work.MOST_ROWS_OF_SPLIT


FAR = 2 * attention_work.LEAST_KEYS
"""Who sees so many keys sees far."""


class CapturedAttention(NamedTuple):
    """Attention in a captured graph: what is cut into pieces, and for how many there is room."""

    heads: int
    """Of the queries."""
    kv_heads: int
    width: int
    itemsize: int
    """Bytes of a number."""
    num_rows: int
    """Of the graph, padding included."""
    far: bool
    """Whether keys may be split."""

    @property
    def room(self) -> int:
        """W, the most pieces."""
        return attention_work.pieces_of(self.num_rows)

    @property
    def _group(self) -> int:
        from skipstone.ops.model import triton_attend

        return triton_attend.group_of(self.heads, self.kv_heads)

    @property
    def _tiles(self) -> attention_work.Tiles:
        shape = (self.num_rows, self.heads, self._group, self.width, self.itemsize)
        shared = self.heads > self.kv_heads
        return attention_work.tiles_for(*shape, shared=shared, far=self.far)

    def holds(self, rows: Rows) -> bool:
        """Whether there is room for all pieces of these rows; many requests have many."""
        tile = self._tiles.slots // self._group
        padding = -(-(self.num_rows - rows.num_rows) // tile)
        return padding >= 0 and attention_work.count(rows, tile) + padding <= self.room

    def pieces(self, rows: Rows) -> np.ndarray:
        """int32 [W, 8], as ``attention_work.pieces`` gives it."""
        shape = (self._tiles, self._group, self.heads)
        return attention_work.pieces(rows, *shape, num_rows=self.num_rows, room=self.room)


def attends_by_tensors(keys: Tensor) -> bool:
    """Whether attention over these keys finds its rows through the tensors of ``Rows`` alone.

    Then a captured graph may be given other rows, with padding among them.
    """
    width = keys.shape[-1]
    return not refusal(keys) and 16 <= width <= 256 and not width & (width - 1)


def left_to_torch(rows: Rows, visible_BL: Tensor | None) -> bool:
    """Whether PyTorch's attention is faster for these rows."""
    # A captured graph may be given other rows, of which the host's counts know nothing.
    dense = rows.work_W8 is None and rows.writes_N is None and visible_BL is None
    one = len(rows.alike) == 1 and rows.alike[0].even
    return dense and one and rows.widest > MOST_ROWS_OF_KERNEL
