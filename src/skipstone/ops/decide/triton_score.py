"""Triton kernels that score greedy rows: each logit is read once and nothing of its size is made.

The vocabulary is split, so that few rows fill a card: every program finds the best two logits of
one piece and the sum of exponentials relative to the best; a second kernel joins the pieces.

Shape letters: N rows, V vocabulary, P pieces of the vocabulary, X values.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from skipstone.ops.decide.reference import Scored

_PIECE = 8192


@triton.jit
def _best(value, index):
    """Value and index of the largest, the lowest index among equals."""
    best, lane = tl.max(value, axis=0, return_indices=True, return_indices_tie_break_left=True)
    return best, tl.sum(tl.where(tl.arange(0, value.shape[0]) == lane, index, 0), axis=0)


@triton.jit
def _piece_kernel(
    logits_ptr,
    value_ptr,
    id_ptr,
    mask_id,
    vocab,
    pieces,
    num_rows,
    ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The best two of one piece of one row, its largest logit, its sum of exponentials.

    For the entropy also the sum of exponentials times their exponents.
    """
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = piece * BLOCK + tl.arange(0, BLOCK)
    logit = tl.load(logits_ptr + row * vocab + token, mask=token < vocab, other=-float("inf"))
    logit = logit.to(tl.float32)
    # A NaN wins, as in argmax, so that it is seen; it then makes the sum NaN.
    seen = tl.where(logit == logit, logit, float("inf"))
    rank = tl.where(token == mask_id, -float("inf"), seen)
    first, first_id = _best(rank, token)
    second, second_id = _best(tl.where(token == first_id, -float("inf"), rank), token)
    # The mask's too: it may be the largest, and exponentials must stay finite.
    largest = tl.max(seen, axis=0)
    exponent = logit - tl.where(largest == -float("inf"), 0.0, largest)
    power = tl.exp(exponent)
    total = tl.sum(power, axis=0)

    at, plane = row * pieces + piece, num_rows * pieces
    tl.store(value_ptr + at, first)
    tl.store(value_ptr + plane + at, second)
    tl.store(value_ptr + 2 * plane + at, largest)
    tl.store(value_ptr + 3 * plane + at, total)
    tl.store(id_ptr + at, first_id)
    tl.store(id_ptr + plane + at, second_id)
    if ENTROPY:
        # What has no probability adds nothing: 0 times minus infinity would be a NaN.
        exponent = tl.where(logit == -float("inf"), 0.0, exponent)
        tl.store(value_ptr + 4 * plane + at, tl.sum(power * exponent, axis=0))


@triton.jit
def _join_kernel(
    value_ptr,
    id_ptr,
    chosen_ptr,
    confidence_ptr,
    pieces,
    num_rows,
    ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Join the pieces of one row."""
    row = tl.program_id(0)
    piece = tl.arange(0, BLOCK)
    inside = piece < pieces
    at, plane = row * pieces + piece, num_rows * pieces
    first = tl.load(value_ptr + at, mask=inside, other=-float("inf"))
    second = tl.load(value_ptr + plane + at, mask=inside, other=-float("inf"))
    largest = tl.load(value_ptr + 2 * plane + at, mask=inside, other=-float("inf"))
    total = tl.load(value_ptr + 3 * plane + at, mask=inside, other=0.0)
    first_id = tl.load(id_ptr + at, mask=inside, other=0)
    second_id = tl.load(id_ptr + plane + at, mask=inside, other=0)

    best, winner = _best(first, piece)
    best, token = _best(first, first_id)
    # Pieces are in order of ids, so the lowest piece among equals holds the lowest id.
    rest = tl.where(piece == winner, second, first)
    other, other_id = _best(rest, tl.where(piece == winner, second_id, first_id))
    origin = tl.max(largest, axis=0)
    scale = tl.exp(largest - origin)
    whole = tl.sum(total * scale, axis=0)
    tl.store(chosen_ptr + row, token.to(tl.int64))
    tl.store(chosen_ptr + num_rows + row, other_id.to(tl.int64))
    tl.store(confidence_ptr + row, (tl.exp(best - origin) / whole).to(tl.float64))
    tl.store(confidence_ptr + num_rows + row, (tl.exp(other - origin) / whole).to(tl.float64))
    if ENTROPY:
        weighted = tl.load(value_ptr + 4 * plane + at, mask=inside, other=0.0)
        # Exponents are relative to the largest of their piece; a piece without any has no weight.
        shift = tl.where(largest == -float("inf"), 0.0, largest - origin)
        mean = tl.sum(scale * (weighted + total * shift) / whole, axis=0)
        tl.store(confidence_ptr + 2 * num_rows + row, (tl.log(whole) - mean).to(tl.float64))


def score(logits_NV: Tensor, mask_id: int, *, entropy: bool = False) -> Scored:
    """As ``reference.score`` without noise, in float32; the lowest id of equals comes first."""
    logits_NV = logits_NV.contiguous()
    num_rows, vocab = logits_NV.shape
    block = min(_PIECE, triton.next_power_of_2(vocab))
    pieces = triton.cdiv(vocab, block)
    # X planes of a piece: its best two, its largest, its sum, and what the entropy needs.
    value_XNP = logits_NV.new_empty((4 + entropy, num_rows, pieces), dtype=torch.float32)
    id_2NP = logits_NV.new_empty((2, num_rows, pieces), dtype=torch.int32)
    _piece_kernel[(num_rows, pieces)](
        logits_NV,
        value_XNP,
        id_2NP,
        mask_id,
        vocab,
        pieces,
        num_rows,
        ENTROPY=entropy,
        BLOCK=block,
        num_warps=8,
    )
    chosen_2N = logits_NV.new_empty((2, num_rows), dtype=torch.int64)
    # Confidence, that of the runner-up, entropy.
    told_XN = logits_NV.new_empty((2 + entropy, num_rows), dtype=torch.float64)
    _join_kernel[(num_rows,)](
        value_XNP,
        id_2NP,
        chosen_2N,
        told_XN,
        pieces,
        num_rows,
        ENTROPY=entropy,
        BLOCK=triton.next_power_of_2(pieces),
        num_warps=1,
    )
    entropy_N = told_XN[2] if entropy else None
    return Scored(chosen_2N[0], told_XN[0], chosen_2N[1], told_XN[1], entropy_N)
