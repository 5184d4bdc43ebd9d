"""Reference operations: readable, in fp32 or better where it decides something, never optimised.

Shape letters: N packed rows, D width, V vocabulary, A requests with rows, R rows of the widest
request, L canvas length, H query heads, U key/value heads, E head width, S compared layers; of
products K inner width, O outputs, M gate and up together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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


def linear(x_NK: Tensor, weight_OK: Tensor) -> Tensor:
    """Products [N, O] of rows with a weight."""
    return F.linear(x_NK, weight_OK)


def linear_swiglu(x_NK: Tensor, gate_up_MK: Tensor) -> Tensor:
    """Gate and up in one product, then ``swiglu``: [N, M/2]."""
    return swiglu(F.linear(x_NK, gate_up_MK))


def linear_add(x_ND: Tensor, input_NK: Tensor, weight_DK: Tensor) -> Tensor:
    """Add a product to the residual stream."""
    return x_ND + F.linear(input_NK, weight_DK)


def linear_add_rms_norm(
    x_ND: Tensor, input_NK: Tensor, weight_DK: Tensor, norm_D: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Add a product to the residual stream, and normalise: the sum and its norm."""
    return add_rms_norm(x_ND, F.linear(input_NK, weight_DK), norm_D, eps)


def rotary_tables(length: int, head_width: int, theta: float, device: torch.device) -> Tensor:
    """Cosine and sine [2, L, E] in float32 for half-split rotary embedding."""
    exponent = torch.arange(0, head_width, 2, dtype=torch.float32, device=device) / head_width
    angle = torch.arange(length, dtype=torch.float32, device=device)[:, None] / theta**exponent
    angle_LE = torch.cat([angle, angle], dim=-1)
    return torch.stack([angle_LE.cos(), angle_LE.sin()])


def rotate(x_NHE: Tensor, angles_2NE: Tensor) -> Tensor:
    """Rotate queries or keys by the angles of their own positions, in float32 or better."""
    cos_N1E, sin_N1E = angles_2NE[:, :, None, :]
    wide = x_NHE.to(torch.promote_types(x_NHE.dtype, torch.float32))
    first, second = wide.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (wide * cos_N1E + turned * sin_N1E).to(x_NHE.dtype)


def write_rows(
    key_BLUE: Tensor, value_BLUE: Tensor, rows: Rows, new_key_NUE: Tensor, new_value_NUE: Tensor
) -> None:
    """Overwrite keys and values at the positions of ``rows``. Changes the first two."""
    key_BLUE[rows.request_N, rows.position_N] = new_key_NUE
    value_BLUE[rows.request_N, rows.position_N] = new_value_NUE


def attend(
    q_NHE: Tensor, key_BLUE: Tensor, value_BLUE: Tensor, rows: Rows, visible_BL: Tensor | None
) -> Tensor:
    """Attention of packed rows over all visible positions of their own request.

    Args:
        q_NHE: rotated queries of the rows.
        key_BLUE: keys of all requests, stored rotated.
        value_BLUE: values of all requests.
        rows: whose queries these are.
        visible_BL: bool, False where a position is padding; None when nothing is padded.

    Returns:
        [N, H*E] in the dtype of the queries.
    """
    _, heads, width = q_NHE.shape
    requests = len(rows.requests)
    if requests < key_BLUE.shape[0]:
        key_BLUE, value_BLUE = key_BLUE[rows.request_A], value_BLUE[rows.request_A]
        visible_BL = None if visible_BL is None else visible_BL[rows.request_A]
    if rows.uniform:
        q_ARHE = q_NHE.view(requests, -1, heads, width)
    else:
        # Unused slots of shorter requests attend like any row; their output is never read.
        q_ARHE = q_NHE.new_zeros(requests * max(rows.counts), heads, width)
        q_ARHE[rows.padded_N] = q_NHE
        q_ARHE = q_ARHE.view(requests, -1, heads, width)
    out_AHRE = F.scaled_dot_product_attention(
        q_ARHE.transpose(1, 2),
        key_BLUE.transpose(1, 2),
        value_BLUE.transpose(1, 2),
        attn_mask=None if visible_BL is None else visible_BL[:, None, None, :],
        enable_gqa=heads != key_BLUE.shape[2],
    )
    out = out_AHRE.transpose(1, 2).reshape(-1, heads * width)
    return out if rows.uniform else out[rows.padded_N]


class Scored(NamedTuple):
    """What one forward says about its masked rows, N of them."""

    token_N: Tensor
    """int64: the token each row would take."""
    confidence_N: Tensor
    """float64: the probability of that token."""
    runner_up_N: Tensor
    """int64: the most probable other token."""
    runner_up_confidence_N: Tensor
    """float64: the probability of the runner-up."""


def score(logits_NV: Tensor, mask_id: int, gumbel_NV: Tensor | None) -> Scored:
    """Choose a token for each row and say how sure the model is, in float64.

    Args:
        logits_NV: logits of the rows that need a decision, and of no others.
        mask_id: never predicted; its probability is shared out among the other tokens.
        gumbel_NV: float64 Gumbel noise already multiplied by the temperature, or None for greedy.
            Adding it to the logits and taking the best samples at that temperature (LLaDA's rule);
            the confidence stays that of the noiseless distribution.
    """
    logits64_NV = logits_NV.to(torch.float64, copy=True)
    logits64_NV[:, mask_id] = -torch.inf
    probability_NV = logits64_NV.softmax(-1)
    wanted_NV = logits64_NV if gumbel_NV is None else logits64_NV + gumbel_NV
    token_N = wanted_NV.argmax(-1)
    # The runner-up is looked for among the others: topk promises no order among equals.
    top = probability_NV.topk(2, dim=-1).indices
    runner_up_N = torch.where(top[:, 0] == token_N, top[:, 1], top[:, 0])
    return Scored(
        token_N,
        probability_NV.gather(-1, token_N[:, None])[:, 0],
        runner_up_N,
        probability_NV.gather(-1, runner_up_N[:, None])[:, 0],
    )


def similarity(now_SND: Tensor, before_SND: Tensor, dtype: torch.dtype) -> Tensor:
    """Cosine of each row with its reference in every compared layer, computed in ``dtype``.

    Returns:
        float64 [S, N], clamped at 1. In bfloat16 the values just below 1 are multiples of 2**-8,
        so means near 1 say little: that is the arithmetic this argument exists to reproduce.
    """
    cosine_SN = F.cosine_similarity(now_SND.to(dtype), before_SND.to(dtype), dim=-1)
    return cosine_SN.double().clamp(max=1.0)
