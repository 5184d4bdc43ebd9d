"""Reference operations: readable, in fp32 or better where it decides something, never optimised.

Shape letters: N packed rows, D width, V vocabulary, A requests that lie alike, R rows of each of
them, C cells, L canvas length, H query heads, U key/value heads, E head width, S compared layers,
B requests, W reference slots of a request, G generation length; of products K inner width, O
outputs, M gate and up together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.canvas import Moment, Status
from skipstone.rows import Alike, Rows


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
    qkv_NHE: Tensor, angles_2NE: Tensor, key_CUE: Tensor, value_CUE: Tensor, rows: Rows
) -> Tensor:
    """Rotate queries and keys of ``rows``, and overwrite their keys and values in the store.

    Args:
        qkv_NHE: H + 2 U heads: queries, keys and values of the rows.
        angles_2NE: cosine and sine at the positions of the rows.
        key_CUE: keys of all cells, stored rotated. Changed.
        value_CUE: values of all cells. Changed.
        rows: whose they are.

    Returns:
        Rotated queries [N, H, E], contiguous.
    """
    kv_heads = key_CUE.shape[1]
    turned, value_NUE = qkv_NHE.tensor_split([qkv_NHE.shape[1] - kv_heads], dim=1)
    turned = rotate(turned, angles_2NE)
    q_NHE, key_NUE = turned.tensor_split([turned.shape[1] - kv_heads], dim=1)
    write_rows(key_CUE, value_CUE, rows, key_NUE, value_NUE)
    return q_NHE.contiguous()


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


class References(NamedTuple):
    """States that rows are compared with, and whose they are."""

    states_SBWD: Tensor
    """The last slot of a request is a spare: what has no slot may be written there, or nowhere."""
    slot_BL: Tensor
    """int64: where the states of a position are; -1 where it has no slot."""
    stamp_2BW: Tensor
    """int64: position and forward of the states in a slot; position -1 where there are none."""


class Bars(NamedTuple):
    """What a row must reach to be stable, and which rows may not leave even then."""

    outlier: float
    """The smallest similarity is at least this."""
    threshold: float
    """The mean similarity is above this."""
    committed: bool
    """Rows committed in the step before stay."""
    neighbours: bool
    """The direct neighbours of such rows stay."""


class Judged(NamedTuple):
    """What the similarities of a step say, N rows."""

    smallest_N: Tensor
    """float64"""
    mean_N: Tensor
    """float64"""
    stable_N: Tensor
    """bool: above the bars, against a reference of its own position."""
    forced_N: Tensor
    """bool: goes on even so."""
    keep_N: Tensor
    """bool: goes on."""
    stamp_2N: Tensor
    """int64: position and forward of what each row was compared with; -1 if there was nothing."""


def cosine(now_SND: Tensor, before_SND: Tensor, dtype: torch.dtype) -> Tensor:
    """Cosine of each row with its reference in every compared layer, computed in ``dtype``.

    Returns:
        float64 [S, N], clamped at 1. In bfloat16 the values just below 1 are multiples of 2**-8,
        so means near 1 say little: that is the arithmetic this argument exists to reproduce.
    """
    cosine_SN = F.cosine_similarity(now_SND.to(dtype), before_SND.to(dtype), dim=-1)
    return cosine_SN.double().clamp(max=1.0)


def similarity(
    states: Sequence[Tensor], references: References, rows: Rows, dtype: torch.dtype
) -> Tensor:
    """Cosine of each row with the reference of its own position, computed in ``dtype``.

    Args:
        states: [N, D] after each compared layer, S of them.
        references: what to compare with.
        rows: whose states these are.
        dtype: of the arithmetic.

    Returns:
        float64 [S, N], at most 1; 0 for rows that have no reference.
    """
    slot_N, stamp_2N = _found(references, rows)
    before_SND = references.states_SBWD[:, rows.request_N, slot_N]
    cosine_SN = cosine(torch.stack(list(states)), before_SND, dtype)
    return torch.where(stamp_2N[0] >= 0, cosine_SN, 0.0)


def judge(
    similarity_SN: Tensor, references: References, rows: Rows, committed_BL: Tensor, bars: Bars
) -> Judged:
    """Which rows are stable, and which go on.

    Args:
        similarity_SN: float64, as ``similarity`` gives it.
        references: what was compared with; a row without a reference is not stable.
        rows: who is judged; those in ``fresh_N`` go on.
        committed_BL: bool, what the step before committed.
        bars: the policy's.
    """
    _, stamp_2N = _found(references, rows)
    smallest_N, mean_N = similarity_SN.amin(0), similarity_SN.mean(0)
    stable_N = (smallest_N >= bars.outlier) & (mean_N > bars.threshold) & (stamp_2N[0] >= 0)
    near_BL = torch.zeros_like(committed_BL)
    if bars.committed:
        near_BL |= committed_BL
    if bars.neighbours:
        near_BL[:, 1:] |= committed_BL[:, :-1]
        near_BL[:, :-1] |= committed_BL[:, 1:]
    forced_N = near_BL[rows.request_N, rows.position_N]
    if rows.fresh_N is not None:
        forced_N = forced_N | rows.fresh_N
    return Judged(smallest_N, mean_N, stable_N, forced_N, ~stable_N | forced_N, stamp_2N)


def replace(
    states: Sequence[Tensor],
    references: References,
    rows: Rows,
    keep_N: Tensor | None,
    forward_B1: Tensor,
) -> None:
    """Make the states of rows their references. Changes the references.

    Args:
        states: [N, D] after each compared layer, S of them.
        references: rows without a slot in them are dropped.
        rows: whose states these are.
        keep_N: bool, which rows to take; None takes all.
        forward_B1: int64, in which forward of each request the states were computed.
    """
    where = (rows.request_N, rows.position_N)
    slot_N = references.slot_BL[where]
    # In PyTorch slot -1 is the last one, which is the spare.
    slot_N = slot_N if keep_N is None else torch.where(keep_N, slot_N, -1)
    to = (slice(None), rows.request_N, slot_N)
    references.states_SBWD[to] = torch.stack(list(states))
    forward_N = forward_B1[rows.request_N, 0]
    references.stamp_2BW[to] = torch.stack([rows.position_N, forward_N])


def _found(references: References, rows: Rows) -> tuple[Tensor, Tensor]:
    """Slot [N] and stamp [2, N] of each row's reference; the stamp is -1 where there is none."""
    slot_N = references.slot_BL[rows.request_N, rows.position_N]
    stamp_2N = references.stamp_2BW[:, rows.request_N, slot_N]
    own_N = (slot_N >= 0) & (stamp_2N[0] == rows.position_N)
    return slot_N, torch.where(own_N, stamp_2N, -1)


class Committed(NamedTuple):
    """What a commit did."""

    commit_BG: Tensor
    """bool: offsets that were committed."""
    committed_BL: Tensor
    """bool: positions that each request committed in its last step."""
    region_2BG: Tensor
    """int64: ids and status of the generation region afterwards; the status is ``BROKEN`` where
    something might have been committed whose confidence is NaN."""


def rank(key_BG: Tensor) -> Tensor:
    """Rank of each offset, int64 [B, G]: 0 for the largest key; equal keys: lowest position first.

    A NaN comes before every number.
    """
    order_BG = key_BG.argsort(dim=-1, descending=True, stable=True)
    place_G = torch.arange(order_BG.shape[-1], device=order_BG.device)
    # The inverse of an order is written, not sorted: one launch instead of several.
    return torch.empty_like(order_BG).scatter_(-1, order_BG, place_G.expand_as(order_BG))


def share(rank_BG: Tensor, confidence_BG: Tensor, moment: Moment) -> Tensor:
    """The first by rank: masks left in the block over steps left, rounded up.

    Args:
        rank_BG: int64, 0 for the first.
        confidence_BG: float64, -inf where nothing may be chosen.
        moment: where each request is.

    Returns:
        bool [B, G].
    """
    left_B1 = (moment.canvas.masked_BG() & moment.block_BG).sum(-1, keepdim=True)
    # In whole numbers this is rank < ceil(left / steps).
    return (rank_BG * moment.steps_left_B1 < left_B1) & (confidence_BG != -torch.inf)


def note(
    tables: Sequence[Tensor],
    scored: Scored,
    rows: Rows,
    index_N: Tensor,
    kept_N: Tensor | None,
    moment: Moment,
) -> None:
    """Put scores on the board, where they are to be taken. Changes the tables.

    Args:
        tables: [B, G] each: token, confidence, runner-up, its confidence, forward of the score.
        scored: N rows.
        rows: what was computed.
        index_N: int64, which of ``rows`` were scored.
        kept_N: bool, of which of ``rows`` the scores are taken; None takes all.
        moment: in which forward of each request that was.
    """
    request_N, takes_N = rows.request_N[index_N], None if kept_N is None else kept_N[index_N]
    where = (request_N, rows.position_N[index_N] - moment.canvas.region_BG[request_N, 0])
    for table_BG, new_N in zip(tables, (*scored, moment.forward_B1[request_N, 0]), strict=True):
        table_BG[where] = new_N if takes_N is None else torch.where(takes_N, new_N, table_BG[where])


def offer(
    scored_at_BG: Tensor, confidence_BG: Tensor, led_by: Rows | None, moment: Moment
) -> Tensor:
    """What may be committed: masks with a fresh score, and one with an old one if it is the best.

    Args:
        scored_at_BG: int64, the forward in which an offset was scored.
        confidence_BG: float64.
        led_by: among the masks of these rows, the first by ``rank`` may have an old score.
        moment: where each request is.

    Returns:
        float64 [B, G]: confidence, and -inf where nothing may be committed.
    """
    canvas = moment.canvas
    masked_BG = canvas.masked_BG()
    allowed_BG = masked_BG & (scored_at_BG == moment.forward_B1)
    if led_by is not None:
        candidate_BG = masked_BG & canvas.region(led_by.mark(canvas.ids_BL))
        all_BG = confidence_BG.masked_fill(~candidate_BG, -torch.inf)
        allowed_BG = allowed_BG | (candidate_BG & (rank(all_BG) == 0))
    return confidence_BG.masked_fill(~allowed_BG, -torch.inf)


def commit(
    chosen_BG: Tensor,
    confidence_BG: Tensor,
    token_BG: Tensor,
    moment: Moment,
    eos_id: int | None,
) -> Committed:
    """Write tokens where they are chosen and may be committed, then stop at EOS.

    A token whose confidence is NaN is never written. Changes the canvas. Requests that take no part
    keep what they committed in their last step.

    Args:
        chosen_BG: bool.
        confidence_BG: float64, -inf where nothing may be committed.
        token_BG: int64.
        moment: where each request is.
        eos_id: what requests are filled with that end at one of their stop ids; None: none ends.
    """
    canvas, before_BL = moment.canvas, moment.committed_BL
    broken_BG = confidence_BG.isnan()
    commit_BG = chosen_BG & ~(confidence_BG.isneginf() | broken_BG)
    canvas.commit(commit_BG, token_BG, Status.COMMITTED)
    new_BL = torch.zeros_like(before_BL).scatter_(1, canvas.region_BG, commit_BG)
    committed_BL = torch.where(moment.forward_B1 >= 0, new_BL, before_BL)
    if eos_id is not None:
        canvas.stop(eos_id)
    region_2BG = canvas.generated_2BG()
    region_2BG[1].masked_fill_(broken_BG, Status.BROKEN)
    return Committed(commit_BG, committed_BL, region_2BG)
