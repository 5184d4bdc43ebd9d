"""Triton kernels of what follows the layers: scores are noted, ranked, offered and committed.

All of it is small, so that launches are what it costs: each operation is one. Programs go over
their request in pieces, so that any length will do.

The generation region of a request is consecutive: its first position says where all of it is.

Shape letters as in ``reference``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from skipstone.canvas import MOST_STOP_IDS, Status, StepContext
from skipstone.ops.decide.reference import Committed, Scored
from skipstone.rows import Rows

_ROWS = 128
_RANKED = 16
_PIECE = 256
# Of a request, whatever its length: a kernel for each length would be compiled when it comes.
_OFFSETS = 512
# So many at once are looked through in one go; a batch has no more.
_REQUESTS = 256


@triton.jit
def _precedes(key, at, other, other_at):
    """Whether a key comes before another one: NaN, then the larger, then the lower offset."""
    more = (key > other) | ((key != key) & (other == other))
    equal = (key == other) | ((key != key) & (other != other))
    return more | (equal & (at < other_at))


@triton.jit(do_not_specialize=["gen_length"])
def _rank_kernel(key_ptr, rank_ptr, gen_length, BLOCK: tl.constexpr, PIECE: tl.constexpr):
    """One program counts, for some offsets of one request, those that come before."""
    key_ptr += tl.program_id(0).to(tl.int64) * gen_length
    rank_ptr += tl.program_id(0).to(tl.int64) * gen_length
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(key_ptr + at, mask=at < gen_length, other=0.0)
    rank = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, gen_length, PIECE):
        other_at = first + tl.arange(0, PIECE)
        # What stands beyond the end comes after everything.
        other = tl.load(key_ptr + other_at, mask=other_at < gen_length, other=-float("inf"))
        before = _precedes(other[None, :], other_at[None, :], key[:, None], at[:, None])
        rank += tl.sum(before.to(tl.int32), axis=1)
    tl.store(rank_ptr + at, rank.to(tl.int64), mask=at < gen_length)


# A row of a table may begin anywhere: nothing is to be compiled for where it does.
@triton.jit(do_not_specialize=["start_ptr", "stop_ptr", "steps_ptr", "length", "gen_length"])
def _scheduled_kernel(
    rank_ptr,
    confidence_ptr,
    status_ptr,
    region_ptr,
    start_ptr,
    stop_ptr,
    steps_ptr,
    out_ptr,
    length,
    gen_length,
    MASK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program counts the masks of its block, and chooses."""
    request = tl.program_id(0).to(tl.int64)
    row = request * gen_length
    status_ptr += request * length + tl.load(region_ptr + row)
    start, stop = tl.load(start_ptr + request), tl.load(stop_ptr + request)
    steps = tl.load(steps_ptr + request)
    left = tl.program_id(0) * 0
    for first in range(0, gen_length, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = (at >= start) & (at < stop)
        masked = tl.load(status_ptr + at, mask=inside, other=0) == MASK
        left += tl.sum((masked & inside).to(tl.int32), axis=0)
    for first in range(0, gen_length, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < gen_length
        rank = tl.load(rank_ptr + row + at, mask=inside, other=0)
        confidence = tl.load(confidence_ptr + row + at, mask=inside, other=0.0)
        chosen = (rank * steps < left) & (confidence != -float("inf"))
        tl.store(out_ptr + row + at, chosen, mask=inside)


@triton.jit(
    do_not_specialize=[
        "new_token_ptr",
        "new_confidence_ptr",
        "new_runner_up_ptr",
        "new_runner_up_confidence_ptr",
        "new_entropy_ptr",
        "request_ptr",
        "position_ptr",
        "forward_ptr",
        "num_rows",
        "gen_length",
    ]
)
def _write_scores_kernel(
    token_ptr,
    confidence_ptr,
    runner_up_ptr,
    runner_up_confidence_ptr,
    scored_at_ptr,
    entropy_ptr,
    new_token_ptr,
    new_confidence_ptr,
    new_runner_up_ptr,
    new_runner_up_confidence_ptr,
    new_entropy_ptr,
    request_ptr,
    index_ptr,
    position_ptr,
    kept_ptr,
    region_ptr,
    forward_ptr,
    num_rows,
    gen_length,
    KEPT: tl.constexpr,
    ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program puts the scores of a block of rows on the board, where they are to be taken."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    takes = n < num_rows
    row = tl.load(index_ptr + n, mask=takes, other=0)
    if KEPT:
        takes = takes & (tl.load(kept_ptr + row, mask=takes, other=0) != 0)
    request = tl.load(request_ptr + row, mask=takes, other=0)
    position = tl.load(position_ptr + n, mask=takes, other=0)
    first = tl.load(region_ptr + request * gen_length, mask=takes, other=0)
    to = request * gen_length + position - first
    tl.store(token_ptr + to, tl.load(new_token_ptr + n, mask=takes), mask=takes)
    tl.store(confidence_ptr + to, tl.load(new_confidence_ptr + n, mask=takes), mask=takes)
    tl.store(runner_up_ptr + to, tl.load(new_runner_up_ptr + n, mask=takes), mask=takes)
    other = tl.load(new_runner_up_confidence_ptr + n, mask=takes)
    tl.store(runner_up_confidence_ptr + to, other, mask=takes)
    if ENTROPY:
        tl.store(entropy_ptr + to, tl.load(new_entropy_ptr + n, mask=takes), mask=takes)
    tl.store(scored_at_ptr + to, tl.load(forward_ptr + request, mask=takes), mask=takes)


@triton.jit
def _leader(
    status_ptr,
    confidence_ptr,
    request_ptr,
    start_ptr,
    position_ptr,
    request,
    origin,
    requests,
    gen_length,
    MASK: tl.constexpr,
    REQUESTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The offset of the first by rank among the masked rows of a request; G if it has none."""
    lane = tl.arange(0, REQUESTS)
    mine = tl.load(request_ptr + lane, mask=lane < requests, other=-1) == request
    low = tl.sum(tl.load(start_ptr + lane, mask=mine, other=0), axis=0)
    high = tl.sum(tl.load(start_ptr + lane + 1, mask=mine, other=0), axis=0)
    best = tl.full((), -float("inf"), tl.float64)
    best_at, broken_at = gen_length, gen_length
    for first in range(low, high, BLOCK):
        n = first + tl.arange(0, BLOCK)
        position = tl.load(position_ptr + n, mask=n < high, other=-1)
        at = (position - origin).to(tl.int32)
        inside = (n < high) & (at >= 0) & (at < gen_length)
        masked = inside & (tl.load(status_ptr + at, mask=inside, other=0) == MASK)
        confidence = tl.load(confidence_ptr + at, mask=masked, other=-float("inf"))
        broken = masked & (confidence != confidence)
        broken_at = tl.minimum(broken_at, tl.min(tl.where(broken, at, gen_length), axis=0))
        confidence = tl.where(broken, -float("inf"), confidence)
        top = tl.max(confidence, axis=0)
        top_at = tl.min(tl.where(masked & (confidence == top), at, gen_length), axis=0)
        # Rows ascend, so an equal one further on is not better.
        best_at = tl.where(top > best, top_at, best_at)
        best = tl.where(top > best, top, best)
    return tl.where(broken_at < gen_length, broken_at, best_at)


@triton.jit(do_not_specialize=["forward_ptr", "position_ptr", "requests", "length", "gen_length"])
def _eligible_kernel(
    status_ptr,
    region_ptr,
    scored_at_ptr,
    confidence_ptr,
    forward_ptr,
    request_ptr,
    start_ptr,
    position_ptr,
    out_ptr,
    requests,
    length,
    gen_length,
    MASK: tl.constexpr,
    LEADS: tl.constexpr,
    REQUESTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program offers what its request may commit."""
    request = tl.program_id(0).to(tl.int64)
    row = request * gen_length
    origin = tl.load(region_ptr + row)
    status_ptr += request * length + origin
    confidence_ptr += row
    forward = tl.load(forward_ptr + request)
    leader = gen_length
    if LEADS:
        leader = _leader(
            status_ptr,
            confidence_ptr,
            request_ptr,
            start_ptr,
            position_ptr,
            request,
            origin,
            requests,
            gen_length,
            MASK,
            REQUESTS,
            BLOCK,
        )
    for first in range(0, gen_length, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < gen_length
        masked = tl.load(status_ptr + at, mask=inside, other=0) == MASK
        fresh = tl.load(scored_at_ptr + row + at, mask=inside, other=0) == forward
        confidence = tl.load(confidence_ptr + at, mask=inside, other=0.0)
        allowed = masked & (fresh | (at == leader))
        tl.store(out_ptr + row + at, tl.where(allowed, confidence, -float("inf")), mask=inside)


@triton.jit
def _written(
    ids_ptr,
    status_ptr,
    chosen_ptr,
    confidence_ptr,
    token_ptr,
    at,
    inside,
    revoked_id,
    MASK: tl.constexpr,
    COMMITTED: tl.constexpr,
):
    """What is committed at offsets, id and status there after it, and where that is a NaN."""
    commit = tl.load(chosen_ptr + at, mask=inside, other=0) != 0
    confidence = tl.load(confidence_ptr + at, mask=inside, other=-float("inf"))
    broken = confidence != confidence
    commit = commit & (confidence != -float("inf")) & (broken == 0)
    token = tl.load(token_ptr + at, mask=commit, other=0)
    token = tl.where(commit, token, tl.load(ids_ptr + at, mask=inside, other=0))
    status = tl.load(status_ptr + at, mask=inside, other=0)
    written = tl.where(token == revoked_id, MASK, COMMITTED)
    return commit, token, tl.where(commit, written, status), broken


@triton.jit(
    do_not_specialize=["forward_ptr", "batch", "length", "gen_length", "eos_id", "revoked_id"]
)
def _commit_kernel(
    ids_ptr,
    status_ptr,
    region_ptr,
    chosen_ptr,
    confidence_ptr,
    token_ptr,
    before_ptr,
    forward_ptr,
    stop_ptr,
    ends_from_ptr,
    commit_ptr,
    committed_ptr,
    region_out_ptr,
    batch,
    length,
    gen_length,
    eos_id,
    revoked_id,
    PAD: tl.constexpr,
    MASK: tl.constexpr,
    COMMITTED: tl.constexpr,
    FILLED: tl.constexpr,
    BROKEN: tl.constexpr,
    STOPS: tl.constexpr,
    IDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program commits for its request, and stops it if it has ended."""
    request = tl.program_id(0).to(tl.int64)
    row, region_row = request * length, request * gen_length
    origin = tl.load(region_ptr + region_row).to(tl.int32)
    # Who takes no part does not forget what it committed.
    forgets = tl.where(tl.load(forward_ptr + request) >= 0, length, 0)
    ids_ptr += row + origin
    status_ptr += row + origin
    chosen_ptr += region_row
    confidence_ptr += region_row
    token_ptr += region_row
    mask_at, eos_at = gen_length, gen_length
    if STOPS:
        stop = tl.load(stop_ptr + request * IDS + tl.arange(0, IDS))
        for first in range(0, gen_length, BLOCK):
            at = first + tl.arange(0, BLOCK)
            inside = at < gen_length
            _, token, status, _ = _written(
                ids_ptr,
                status_ptr,
                chosen_ptr,
                confidence_ptr,
                token_ptr,
                at,
                inside,
                revoked_id,
                MASK,
                COMMITTED,
            )
            masked = status == MASK
            stops = tl.max((token[:, None] == stop[None, :]).to(tl.int32), axis=1) != 0
            ended = inside & (masked == 0) & (status != PAD) & stops
            mask_at = tl.minimum(mask_at, tl.min(tl.where(masked, at, gen_length), axis=0))
            eos_at = tl.minimum(eos_at, tl.min(tl.where(ended, at, gen_length), axis=0))
    ends_from = tl.load(ends_from_ptr + request)
    filled = tl.where((eos_at < mask_at) & (mask_at >= ends_from), gen_length, 0)
    for first in range(0, length, BLOCK):
        position = first + tl.arange(0, BLOCK)
        at = position - origin
        inside = (at >= 0) & (at < gen_length)
        commit, token, status, broken = _written(
            ids_ptr,
            status_ptr,
            chosen_ptr,
            confidence_ptr,
            token_ptr,
            at,
            inside,
            revoked_id,
            MASK,
            COMMITTED,
        )
        fill = (status == MASK) & (at < filled)
        token = tl.where(fill, eos_id, token)
        status = tl.where(fill, FILLED, status)
        tl.store(ids_ptr + at, token, mask=commit | fill)
        tl.store(status_ptr + at, status, mask=commit | fill)
        tl.store(commit_ptr + region_row + at, commit, mask=inside)
        tl.store(region_out_ptr + region_row + at, token, mask=inside)
        told = tl.where(broken, BROKEN, status)
        tl.store(region_out_ptr + (batch + request) * gen_length + at, told, mask=inside)
        keeps = (position >= forgets) & (position < length)
        old = tl.load(before_ptr + row + position, mask=keeps, other=0) != 0
        old = tl.where(position < forgets, commit, old)
        tl.store(committed_ptr + row + position, old, mask=position < length)


def rank(key_BG: Tensor) -> Tensor:
    """As ``reference.rank``."""
    key_BG = key_BG.contiguous()
    batch, gen_length = key_BG.shape
    rank_BG = torch.empty_like(key_BG, dtype=torch.int64)
    _rank_kernel[(batch, triton.cdiv(gen_length, _RANKED))](
        key_BG, rank_BG, gen_length, BLOCK=_RANKED, PIECE=_PIECE, num_warps=4
    )
    return rank_BG


def scheduled(rank_BG: Tensor, confidence_BG: Tensor, context: StepContext) -> Tensor:
    """As ``reference.scheduled``."""
    canvas = context.canvas
    chosen_BG = torch.empty_like(canvas.region_BG, dtype=torch.bool)
    _scheduled_kernel[(canvas.batch,)](
        rank_BG.contiguous(),
        confidence_BG.contiguous(),
        canvas.status_BL,
        canvas.region_BG,
        context.block_start_B1,
        context.block_stop_B1,
        context.steps_left_B1,
        chosen_BG,
        canvas.ids_BL.shape[1],
        canvas.gen_length,
        MASK=int(Status.MASK),
        BLOCK=_OFFSETS,
        num_warps=4,
    )
    return chosen_BG


def write_scores(
    tables: Sequence[Tensor],
    scored: Scored,
    rows: Rows,
    index_2N: Tensor,
    kept_N: Tensor | None,
    context: StepContext,
) -> None:
    """As ``reference.write_scores``."""
    index_N, position_N = index_2N.contiguous()
    num_rows = index_N.shape[0]
    token_BG, confidence_BG, runner_up_BG, runner_up_confidence_BG, scored_at_BG = tables[:5]
    entropy_N = scored.entropy_N
    _write_scores_kernel[(triton.cdiv(num_rows, _ROWS),)](
        token_BG,
        confidence_BG,
        runner_up_BG,
        runner_up_confidence_BG,
        scored_at_BG,
        scored_at_BG if entropy_N is None else tables[5],
        scored.token_N.contiguous(),
        scored.confidence_N.contiguous(),
        scored.runner_up_N.contiguous(),
        scored.runner_up_confidence_N.contiguous(),
        scored.confidence_N if entropy_N is None else entropy_N.contiguous(),
        rows.request_N,
        index_N,
        position_N,
        index_N if kept_N is None else kept_N.contiguous(),
        context.canvas.region_BG,
        context.forward_B1,
        num_rows,
        context.canvas.gen_length,
        KEPT=kept_N is not None,
        ENTROPY=entropy_N is not None,
        BLOCK=_ROWS,
        num_warps=4,
    )


def eligible(
    scored_at_BG: Tensor, confidence_BG: Tensor, led_by: Rows | None, context: StepContext
) -> Tensor:
    """As ``reference.eligible``."""
    canvas = context.canvas
    requests = 0 if led_by is None else len(led_by.requests)
    offered_BG = torch.empty_like(confidence_BG)
    _eligible_kernel[(canvas.batch,)](
        canvas.status_BL,
        canvas.region_BG,
        scored_at_BG,
        confidence_BG,
        context.forward_B1,
        canvas.region_BG if led_by is None else led_by.request_A,
        canvas.region_BG if led_by is None else led_by.offset_A1,
        canvas.region_BG if led_by is None else led_by.position_N,
        offered_BG,
        requests,
        canvas.ids_BL.shape[1],
        canvas.gen_length,
        MASK=int(Status.MASK),
        LEADS=requests > 0,
        REQUESTS=max(_REQUESTS, triton.next_power_of_2(requests)),
        BLOCK=_OFFSETS,
        num_warps=4,
    )
    return offered_BG


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
    """As ``reference.commit``."""
    canvas = context.canvas
    batch, length = canvas.ids_BL.shape
    commit_BG = torch.empty_like(canvas.region_BG, dtype=torch.bool)
    committed_BL = torch.empty_like(canvas.ids_BL, dtype=torch.bool)
    region_2BG = canvas.ids_BL.new_empty((2, batch, canvas.gen_length))
    _commit_kernel[(batch,)](
        canvas.ids_BL,
        canvas.status_BL,
        canvas.region_BG,
        chosen_BG.contiguous(),
        confidence_BG.contiguous(),
        token_BG.contiguous(),
        context.committed_BL.contiguous(),
        context.forward_B1,
        canvas.stop_BK,
        ends_from_B1.contiguous(),
        commit_BG,
        committed_BL,
        region_2BG,
        batch,
        length,
        canvas.gen_length,
        0 if eos_id is None else eos_id,
        -1 if revoked_id is None else revoked_id,
        PAD=int(Status.PAD),
        MASK=int(Status.MASK),
        COMMITTED=int(Status.COMMITTED),
        FILLED=int(Status.FILLED),
        BROKEN=int(Status.BROKEN),
        STOPS=eos_id is not None,
        IDS=MOST_STOP_IDS,
        BLOCK=_OFFSETS,
        num_warps=4,
    )
    return Committed(commit_BG, committed_BL, region_2BG)
