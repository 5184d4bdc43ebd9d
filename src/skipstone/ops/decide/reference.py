"""Reference operations of scores, commits and skips: readable, in fp32 or better, never optimised.

Shape letters: N packed rows, D width, V vocabulary, L canvas length, S compared layers, B requests,
W reference slots of a request, G generation length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.canvas import Canvas, Status, StepContext
from skipstone.rows import Rows


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
    entropy_N: Tensor | None = None
    """float64: the entropy of the whole distribution, in nats; None if nobody asked."""


class Cut(NamedTuple):
    """Which tokens are possible for rows of one request, in the order of Dream's published code."""

    num_rows: int
    temperature: float
    """The logits are divided by it first."""
    top_p: float | None
    """Then the most probable tokens stay, up to the one with which they exceed this."""
    top_k: int | None
    """Then so many, and all that equal the last of them."""

    def of(self, logits_NV: Tensor, mask_id: int) -> Tensor:
        """The logits, float64, with minus infinity for what is not possible.

        The best but the mask stays, also where the mask alone would be left.
        """
        whole_NV = logits_NV = logits_NV / self.temperature
        if self.top_p is not None and self.top_p < 1:
            found = logits_NV.sort(dim=-1, descending=True, stable=True)
            reached_NV = found.values.softmax(-1).cumsum(-1)
            # What is before a token decides: the one that crosses the bound stays.
            out_NV = reached_NV.roll(1, -1) > self.top_p
            out_NV[:, 0] = False
            out_NV = torch.zeros_like(out_NV).scatter_(-1, found.indices, out_NV)
            logits_NV = logits_NV.masked_fill(out_NV, -torch.inf)
        if self.top_k is not None and self.top_k < logits_NV.shape[-1]:
            least_N1 = logits_NV.topk(self.top_k, -1).values[:, -1:]
            logits_NV = logits_NV.masked_fill(logits_NV < least_N1, -torch.inf)
        best_N1 = _without(mask_id, whole_NV, -torch.inf).argmax(-1, keepdim=True)
        return logits_NV.scatter(-1, best_N1, whole_NV.gather(-1, best_N1))


def _without(mask_id: int, x_NV: Tensor, value: float) -> Tensor:
    """A copy in which the mask has a value that is never chosen."""
    x_NV = x_NV.clone()
    x_NV[:, mask_id] = value
    return x_NV


def score(
    logits_NV: Tensor,
    mask_id: int,
    gumbel_NV: Tensor | None,
    *,
    entropy: bool = False,
    cuts: Sequence[Cut] = (),
) -> Scored:
    """Choose a token for each row and say how sure the model is, in float64.

    Args:
        logits_NV: logits of the rows that need a decision, and of no others.
        mask_id: never predicted; what probability it has is missing to the other tokens, as in
            published code.
        gumbel_NV: float64 Gumbel noise already multiplied by the temperature, or None for greedy.
            Adding it to the logits and taking the best samples at that temperature (LLaDA's rule);
            the confidence stays that of the noiseless distribution, and so does the entropy.
        entropy: whether to give the entropy too.
        cuts: of the requests whose rows these are, in order; none: everything is possible. Noise is
            not multiplied by the temperature then, and all that is said is that of the cut
            distribution.
    """
    logits64_NV = logits_NV.to(torch.float64)
    if cuts:
        parts = zip(cuts, logits64_NV.split([cut.num_rows for cut in cuts]), strict=True)
        logits64_NV = torch.cat([cut.of(part_NV, mask_id) for cut, part_NV in parts])
    probability_NV = logits64_NV.softmax(-1)
    entropy_N = torch.special.entr(probability_NV).sum(-1) if entropy else None
    probability_NV[:, mask_id] = 0
    wanted_NV = _without(mask_id, logits64_NV, -torch.inf)
    if gumbel_NV is not None:
        wanted_NV += gumbel_NV
    token_N = wanted_NV.argmax(-1)
    # The runner-up is looked for among the others: topk promises no order among equals.
    top = probability_NV.topk(2, dim=-1).indices
    runner_up_N = torch.where(top[:, 0] == token_N, top[:, 1], top[:, 0])
    return Scored(
        token_N,
        probability_NV.gather(-1, token_N[:, None])[:, 0],
        runner_up_N,
        probability_NV.gather(-1, runner_up_N[:, None])[:, 0],
        entropy_N,
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


def scheduled(rank_BG: Tensor, confidence_BG: Tensor, context: StepContext) -> Tensor:
    """The first by rank: masks left in the block over steps left, rounded up.

    Args:
        rank_BG: int64, 0 for the first.
        confidence_BG: float64, -inf where nothing may be chosen.
        context: where each request is.

    Returns:
        bool [B, G].
    """
    left_B1 = (context.canvas.masked_BG() & context.block_BG).sum(-1, keepdim=True)
    # In whole numbers this is rank < ceil(left / steps).
    return (rank_BG * context.steps_left_B1 < left_B1) & (confidence_BG != -torch.inf)


def write_scores(
    tables: Sequence[Tensor],
    scored: Scored,
    rows: Rows,
    index_2N: Tensor,
    kept_N: Tensor | None,
    context: StepContext,
) -> None:
    """Put scores on the board, where they are to be taken. Changes the tables.

    Args:
        tables: [B, G] each: token, confidence, runner-up, its confidence, forward of the score; and
            the entropy, where it was scored.
        scored: N rows.
        rows: what was computed.
        index_2N: int64, which of ``rows`` scored, and the positions that they scored.
        kept_N: bool, of which of ``rows`` the scores are taken; None takes all.
        context: in which forward of each request that was.
    """
    index_N, position_N = index_2N
    request_N, takes_N = rows.request_N[index_N], None if kept_N is None else kept_N[index_N]
    where = (request_N, position_N - context.canvas.region_BG[request_N, 0])
    *told, entropy_N = scored
    told.append(context.forward_B1[request_N, 0])
    if entropy_N is not None:
        told.append(entropy_N)
    for table_BG, new_N in zip(tables, told, strict=True):
        table_BG[where] = new_N if takes_N is None else torch.where(takes_N, new_N, table_BG[where])


def eligible(
    scored_at_BG: Tensor, confidence_BG: Tensor, led_by: Rows | None, context: StepContext
) -> Tensor:
    """What may be committed: masks with a fresh score, and one with an old one if it is the best.

    Args:
        scored_at_BG: int64, the forward in which an offset was scored.
        confidence_BG: float64.
        led_by: among the masks of these rows, the first by ``rank`` may have an old score.
        context: where each request is.

    Returns:
        float64 [B, G]: confidence, and -inf where nothing may be committed.
    """
    canvas = context.canvas
    masked_BG = canvas.masked_BG()
    allowed_BG = masked_BG & (scored_at_BG == context.forward_B1)
    if led_by is not None:
        candidate_BG = masked_BG & canvas.region(led_by.mark(canvas.ids_BL))
        all_BG = confidence_BG.masked_fill(~candidate_BG, -torch.inf)
        allowed_BG = allowed_BG | (candidate_BG & (rank(all_BG) == 0))
    return confidence_BG.masked_fill(~allowed_BG, -torch.inf)


def commit(
    chosen_BG: Tensor,
    confidence_BG: Tensor,
    token_BG: Tensor,
    context: StepContext,
    eos_id: int | None,
    ends_from_B1: Tensor,
    *,
    revoked_id: int | None = None,
) -> Committed:
    """Write tokens where they are chosen and may be written, then stop at EOS.

    Where a token is committed already, the new one takes its place. One whose confidence is NaN is
    never written. Changes the canvas. Requests that take no part keep what they committed in their
    last step.

    Args:
        chosen_BG: bool.
        confidence_BG: float64, -inf where nothing may be written.
        token_BG: int64.
        context: where each request is.
        eos_id: what requests are filled with that end at one of their stop ids; None: none ends.
        ends_from_B1: int64, no request ends before all left of this offset is decided.
        revoked_id: the id by which a committed token becomes a mask again; None: none does.
    """
    canvas, before_BL = context.canvas, context.committed_BL
    broken_BG = confidence_BG.isnan()
    commit_BG = chosen_BG & ~(confidence_BG.isneginf() | broken_BG)
    canvas.commit(commit_BG, token_BG, Status.COMMITTED)
    if revoked_id is not None:
        canvas.commit(commit_BG & (token_BG == revoked_id), token_BG, Status.MASK)
    new_BL = torch.zeros_like(before_BL).scatter_(1, canvas.region_BG, commit_BG)
    committed_BL = torch.where(context.forward_B1 >= 0, new_BL, before_BL)
    if eos_id is not None:
        _fill_ended(canvas, eos_id, ends_from_B1)
    region_2BG = canvas.generated_2BG()
    region_2BG[1].masked_fill_(broken_BG, Status.BROKEN)
    return Committed(commit_BG, committed_BL, region_2BG)


def _fill_ended(canvas: Canvas, eos_id: int, ends_from_B1: Tensor) -> None:
    """Fill requests with EOS that have ended. Changes ids and status.

    A request has ended where one of its stop ids is decided and nothing left of it is masked, nor
    anything left of ``ends_from_B1``.
    """
    masked_BG, ids_BG = canvas.masked_BG(), canvas.region(canvas.ids_BL)
    stops_BG = (ids_BG[:, :, None] == canvas.stop_BK[:, None]).any(-1)
    ended_BG = stops_BG & ~masked_BG & (canvas.region(canvas.status_BL) != Status.PAD)
    final_BG = masked_BG.cumsum(1) == 0
    stopped_B1 = (ended_BG & final_BG).any(1, keepdim=True)
    stopped_B1 &= final_BG.sum(1, keepdim=True) >= ends_from_B1
    eos_BG = torch.full_like(canvas.region_BG, eos_id)
    canvas.commit(masked_BG & stopped_B1, eos_BG, Status.FILLED)
