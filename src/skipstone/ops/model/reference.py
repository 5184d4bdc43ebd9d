"""Reference operations of layers: readable, in fp32 or better where it decides something.

Shape letters: N packed rows, D width, A requests that lie alike, R rows of each of them, C cells,
L canvas length, H query heads, U key/value heads, E head width, R rotated part of a head; of
products K inner width, O outputs, M gate and up together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.alike import Alike
from skipstone.rows import Rows


def rms_norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """RMS normalisation in float32, cast back before the weight is applied, as LLaDA does."""
    x32_ND = x_ND.float() if x_ND.dtype != torch.float64 else x_ND
    scale_N1 = torch.rsqrt(x32_ND.pow(2).mean(-1, keepdim=True) + eps)
    return weight_D * (x32_ND * scale_N1).to(x_ND.dtype)


def add_rms_norm(
    x_ND: Tensor, delta_ND: Tensor, weight_D: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Add to the residual stream, and normalise: the sum and its norm."""
    x_ND = x_ND + delta_ND
    return x_ND, rms_norm(x_ND, weight_D, eps)


def swiglu(gate_up_NM: Tensor) -> Tensor:
    """Gate the upper half of each row by SiLU of the lower half."""
    gate_NM, up_NM = gate_up_NM.chunk(2, dim=-1)
    return F.silu(gate_NM) * up_NM


def linear(
    x_NK: Tensor, weight_OK: Tensor, bias_O: Tensor | None = None, scale_O: Tensor | None = None
) -> Tensor:
    """Products [N, O] of rows with a weight.

    Args:
        x_NK: the rows.
        weight_OK: in their dtype; with a scale, in any.
        bias_O: added to each output.
        scale_O: what each output is multiplied by first: the scale of a quantised weight.
    """
    if scale_O is None:
        return F.linear(x_NK, weight_OK, bias_O)
    out_NO = F.linear(x_NK, weight_OK.to(x_NK.dtype)) * scale_O.to(x_NK.dtype)
    return out_NO if bias_O is None else out_NO + bias_O


def linear_swiglu(
    x_NK: Tensor, gate_up_MK: Tensor, bias_M: Tensor | None = None, scale_M: Tensor | None = None
) -> Tensor:
    """Gate and up in one product, then ``swiglu``: [N, M/2]."""
    return swiglu(linear(x_NK, gate_up_MK, bias_M, scale_M))


def linear_add(
    x_ND: Tensor,
    input_NK: Tensor,
    weight_DK: Tensor,
    bias_D: Tensor | None = None,
    scale_D: Tensor | None = None,
) -> Tensor:
    """Add a product to the residual stream."""
    return x_ND + linear(input_NK, weight_DK, bias_D, scale_D)


def linear_add_rms_norm(
    x_ND: Tensor,
    input_NK: Tensor,
    weight_DK: Tensor,
    norm_D: Tensor,
    eps: float,
    bias_D: Tensor | None = None,
    scale_D: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add a product to the residual stream, and normalise: the sum and its norm."""
    return add_rms_norm(x_ND, linear(input_NK, weight_DK, bias_D, scale_D), norm_D, eps)


def rotary_tables(
    length: int, rotary_width: int, theta: float, device: torch.device, *, inverted: bool = False
) -> Tensor:
    """Cosine and sine [2, L, R] in float32 for half-split rotary embedding.

    Args:
        length: L.
        rotary_width: R.
        theta: base of the frequencies.
        device: where the tables lie.
        inverted: multiply positions by inverse frequencies, which differs in the last bits.
    """
    exponent = torch.arange(0, rotary_width, 2, dtype=torch.float32, device=device) / rotary_width
    position_L1 = torch.arange(length, dtype=torch.float32, device=device)[:, None]
    slower = theta**exponent
    angle = position_L1 * (1.0 / slower) if inverted else position_L1 / slower
    angle_LR = torch.cat([angle, angle], dim=-1)
    return torch.stack([angle_LR.cos(), angle_LR.sin()])


def rotate(x_NHE: Tensor, angles_2NR: Tensor) -> Tensor:
    """Rotate queries or keys by the angles of their own positions.

    The first R numbers of a head are rotated, the others stay. The arithmetic is that of the
    angles' dtype, or of the heads' where that is wider.
    """
    cos_N1R, sin_N1R = angles_2NR[:, :, None, :]
    whole = x_NHE.to(torch.promote_types(x_NHE.dtype, angles_2NR.dtype))
    rotated, kept = whole.tensor_split([angles_2NR.shape[-1]], dim=-1)
    first, second = rotated.chunk(2, dim=-1)
    turned = rotated * cos_N1R + torch.cat([-second, first], dim=-1) * sin_N1R
    out_NHE = turned if kept.shape[-1] == 0 else torch.cat([turned, kept], dim=-1)
    return out_NHE.to(x_NHE.dtype)


class HeadNorms(NamedTuple):
    """How each head of queries and keys is normalised."""

    query_E: Tensor
    key_E: Tensor
    eps: float


def write_rows(
    key_CUE: Tensor, value_CUE: Tensor, rows: Rows, new_key_NUE: Tensor, new_value_NUE: Tensor
) -> None:
    """Overwrite keys and values at the positions of ``rows``. Changes the first two.

    Rows that are not among ``rows.writes_N`` leave everything as it was.
    """
    cell_N, writes_N = rows.cell_N, rows.writes_N
    if writes_N is not None:
        # A row that must not write repeats one that does: the place of padding may be taken.
        own_N = torch.arange(writes_N.shape[0], device=writes_N.device)
        source_N = torch.where(writes_N, own_N, writes_N.int().argmax())
        cell_N = cell_N[source_N]
        # Without any such row all of them repeat what is there.
        any_N11 = writes_N[source_N][:, None, None]
        new_key_NUE, new_value_NUE = (
            torch.where(any_N11, new[source_N], old[cell_N])
            for new, old in ((new_key_NUE, key_CUE), (new_value_NUE, value_CUE))
        )
    key_CUE[cell_N] = new_key_NUE
    value_CUE[cell_N] = new_value_NUE


def rotate_and_write(
    qkv_NHE: Tensor,
    angles_2NR: Tensor,
    key_CUE: Tensor,
    value_CUE: Tensor,
    rows: Rows,
    norms: HeadNorms | None = None,
) -> Tensor:
    """Rotate queries and keys of ``rows``, and overwrite their keys and values in the store.

    Args:
        qkv_NHE: H + 2 U heads: queries, keys and values of the rows.
        angles_2NR: cosine and sine at the positions of the rows; see ``rotate``.
        key_CUE: keys of all cells, stored rotated. Changed.
        value_CUE: values of all cells. Changed.
        rows: whose they are.
        norms: what queries and keys are normalised by first, head by head.

    Returns:
        Rotated queries [N, H, E], contiguous.
    """
    kv_heads = key_CUE.shape[1]
    turned, value_NUE = qkv_NHE.tensor_split([qkv_NHE.shape[1] - kv_heads], dim=1)
    if norms is not None:
        turned = normed_heads(turned, kv_heads, norms)
    turned = rotate(turned, angles_2NR)
    q_NHE, key_NUE = turned.tensor_split([turned.shape[1] - kv_heads], dim=1)
    write_rows(key_CUE, value_CUE, rows, key_NUE, value_NUE)
    return q_NHE.contiguous()


def normed_heads(heads_NHE: Tensor, kv_heads: int, norms: HeadNorms) -> Tensor:
    """Queries and then keys [N, H + U, E], each head of them normalised."""
    q_NHE, key_NUE = heads_NHE.tensor_split([heads_NHE.shape[1] - kv_heads], dim=1)
    parts = (q_NHE, norms.query_E), (key_NUE, norms.key_E)
    return torch.cat([rms_norm(part, weight_E, norms.eps) for part, weight_E in parts], dim=1)


def normed(qkv_NHE: Tensor, kv_heads: int, norms: HeadNorms) -> Tensor:
    """Queries, keys and values [N, H + 2 U, E]; each head of queries and keys normalised."""
    turned, value_NUE = qkv_NHE.tensor_split([qkv_NHE.shape[1] - kv_heads], dim=1)
    return torch.cat([normed_heads(turned, kv_heads, norms), value_NUE], dim=1)


def attend(
    q_NHE: Tensor,
    key_CUE: Tensor,
    value_CUE: Tensor,
    rows: Rows,
    visible_BL: Tensor | None = None,
) -> Tensor:
    """Attention of packed rows over their own request, up to the horizon of each.

    Args:
        q_NHE: rotated queries of the rows.
        key_CUE: keys of all cells, stored rotated.
        value_CUE: values of all cells.
        rows: whose queries these are.
        visible_BL: bool, False where a position is hidden from all rows; None hides nothing.

    Returns:
        [N, H*E] in the dtype of the queries.
    """
    if len(rows.alike) == 1:
        return _attend_alike(q_NHE, key_CUE, value_CUE, rows, rows.alike[0], visible_BL)
    out = q_NHE.new_empty(q_NHE.shape[0], q_NHE.shape[1] * q_NHE.shape[2])
    for part in rows.alike:
        mine = slice(part.first, part.first + part.count * len(part.requests))
        out[mine] = _attend_alike(q_NHE[mine], key_CUE, value_CUE, rows, part, visible_BL)
    return out


def attention_weights(
    q_NHE: Tensor, key_CUE: Tensor, rows: Rows, visible_BL: Tensor | None = None
) -> Tensor:
    """What part of its attention each row gives to each position of its request.

    Args:
        q_NHE: rotated queries of the rows.
        key_CUE: keys of all cells, stored rotated.
        rows: whose queries these are.
        visible_BL: bool, False where a position is hidden from all rows; None hides nothing.

    Returns:
        float32 [N, K], mean over the heads; K is the furthest horizon.
    """
    heads, width = q_NHE.shape[1:]
    most = int(rows.horizon.max(initial=0))
    weights_NK = q_NHE.new_zeros(rows.num_rows, most, dtype=torch.float32)
    first = 0
    for request, count in zip(rows.requests, rows.counts, strict=True):
        mine, base = slice(first, first + count), int(rows.base[first])
        far = int(rows.horizon[mine].max())
        key_KHE = key_CUE[base : base + far].repeat_interleave(heads // key_CUE.shape[1], dim=1)
        scores_HRK = torch.einsum("rhe,khe->hrk", q_NHE[mine].float(), key_KHE.float())
        seen_RK = torch.arange(far, device=rows.device) < rows.horizon_N[mine, None]
        if visible_BL is not None:
            seen_RK = seen_RK & visible_BL[request, :far]
        scores_HRK = (scores_HRK / width**0.5).masked_fill(~seen_RK, -torch.inf)
        weights_NK[mine, :far] = scores_HRK.softmax(-1).mean(0)
        first += count
    return weights_NK


def _attend_alike(
    q_NHE: Tensor,
    key_CUE: Tensor,
    value_CUE: Tensor,
    rows: Rows,
    part: Alike,
    visible_BL: Tensor | None,
) -> Tensor:
    """Attention of the rows of requests that lie alike, over a view of their keys."""
    _, heads, width = q_NHE.shape
    requests = len(part.requests)
    key_ALUE, value_ALUE = (
        whole.as_strided(
            (requests, part.bound, *whole.shape[1:]),
            (part.apart * whole.stride(0), *whole.stride()),
            whole.storage_offset() + part.base * whole.stride(0),
        )
        for whole in (key_CUE, value_CUE)
    )
    out_AHRE = F.scaled_dot_product_attention(
        q_NHE.view(requests, part.count, heads, width).transpose(1, 2),
        key_ALUE.transpose(1, 2),
        value_ALUE.transpose(1, 2),
        attn_mask=_mask(rows, part, visible_BL),
        enable_gqa=heads != key_CUE.shape[1],
    )
    return out_AHRE.transpose(1, 2).reshape(-1, heads * width)


def _mask(rows: Rows, part: Alike, visible_BL: Tensor | None) -> Tensor | None:
    """Bool [A, 1, 1 or R, L]: what is seen of the first L positions; None if all is."""
    shown = None
    if visible_BL is not None:
        shown = visible_BL[list(part.requests), None, None, : part.bound]
    if part.even:
        return shown
    horizon_R = rows.horizon_N[part.first : part.first + part.count]
    inside = torch.arange(part.bound, device=rows.device) < horizon_R[None, None, :, None]
    return inside if shown is None else inside & shown
