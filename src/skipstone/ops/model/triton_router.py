"""Triton kernel that chooses the experts of each row.

Shape letters: N rows, X experts, K experts of a row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from skipstone.ops import triton_early
from skipstone.ops.model.reference_experts import LEAST_SUM, Chosen, Router
from skipstone.ops.triton_early import wait_for_inputs

# Above every score and its bias: what is no number is chosen first, as the reference does it.
_ABOVE_ALL = tl.constexpr(1e30)


@triton.jit
def _of_best_groups(
    judged,
    x,
    EXPERTS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    TOP: tl.constexpr,
):
    """Scores of experts; those of other groups than the best are out of reach."""
    size: tl.constexpr = EXPERTS // GROUPS
    group = tl.arange(0, BLOCK)
    value = tl.full((BLOCK,), float("-inf"), tl.float32)
    for g in range(GROUPS):
        mine = tl.where(x // size == g, judged, float("-inf"))
        best = tl.max(mine, axis=0)
        second = tl.max(tl.where(x == tl.argmax(mine, axis=0), float("-inf"), mine), axis=0)
        value = tl.where(group == g, best + second, value)
    is_open = x < 0
    for _ in range(TOP):
        best = tl.argmax(value, axis=0)
        is_open = is_open | (x // size == best)
        value = tl.where(group == best, float("-inf"), value)
    return tl.where(is_open, judged, float("-inf"))


@triton.jit(do_not_specialize=["counts_ptr"])
def _choose_kernel(
    logits_ptr,
    bias_ptr,
    counts_ptr,
    expert_ptr,
    weight_ptr,
    scale,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    TOP: tl.constexpr,
    BLOCK_TOP: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    TOP_GROUPS: tl.constexpr,
    SIGMOID: tl.constexpr,
    BIASED: tl.constexpr,
    NORMALISED: tl.constexpr,
    ALL_COUNT: tl.constexpr,
    LEAST: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One program chooses for one row."""
    wait_for_inputs(EARLY)
    row = tl.program_id(0).to(tl.int64)
    x = tl.arange(0, BLOCK)
    inside = x < EXPERTS
    logit = tl.load(logits_ptr + row * EXPERTS + x, mask=inside, other=float("-inf"))
    if SIGMOID:
        score = 1.0 / (1.0 + tl.exp(-logit))
    else:
        power = tl.exp(logit - tl.max(logit, axis=0))
        score = power / tl.sum(power, axis=0)
    judged = score
    if BIASED:
        judged += tl.load(bias_ptr + x, mask=inside, other=0.0).to(tl.float32)
    judged = tl.where(judged == judged, judged, _ABOVE_ALL)
    judged = tl.where(inside, judged, float("-inf"))
    if TOP_GROUPS < GROUPS:
        judged = _of_best_groups(judged, x, EXPERTS, GROUPS, BLOCK_GROUPS, TOP_GROUPS)
    slot = tl.arange(0, BLOCK_TOP)
    experts, weights = tl.zeros((BLOCK_TOP,), tl.int32), tl.zeros((BLOCK_TOP,), tl.float32)
    for k in range(TOP):
        best = tl.argmax(judged, axis=0)
        experts = tl.where(slot == k, best, experts)
        weights = tl.where(slot == k, tl.sum(tl.where(x == best, score, 0.0), axis=0), weights)
        judged = tl.where(x == best, float("-inf"), judged)
    if NORMALISED:
        weights = weights / (tl.sum(weights, axis=0) + LEAST)
    weights = weights * scale
    if not ALL_COUNT:
        counts = tl.load(counts_ptr + row) != 0
        experts, weights = tl.where(counts, experts, EXPERTS), tl.where(counts, weights, 0.0)
    at = row * TOP + slot
    tl.store(expert_ptr + at, experts, mask=slot < TOP)
    tl.store(weight_ptr + at, weights, mask=slot < TOP)


def choose(
    logits_NX: Tensor, bias_X: Tensor | None, router: Router, counts_N: Tensor | None = None
) -> Chosen:
    """As ``reference_experts.choose``."""
    logits_NX = logits_NX.contiguous()
    num_rows, num_experts = logits_NX.shape
    expert_NK = logits_NX.new_empty(num_rows, router.top_k, dtype=torch.int32)
    weight_NK = logits_NX.new_empty(num_rows, router.top_k)
    _choose_kernel[(num_rows,)](
        logits_NX,
        logits_NX if bias_X is None else bias_X,
        logits_NX if counts_N is None else counts_N,
        expert_NK,
        weight_NK,
        router.scale,
        EXPERTS=num_experts,
        BLOCK=triton.next_power_of_2(num_experts),
        TOP=router.top_k,
        BLOCK_TOP=triton.next_power_of_2(router.top_k),
        GROUPS=router.groups,
        BLOCK_GROUPS=triton.next_power_of_2(router.groups),
        TOP_GROUPS=router.top_groups,
        SIGMOID=router.scoring == "sigmoid",
        BIASED=bias_X is not None,
        NORMALISED=router.normalised,
        ALL_COUNT=counts_N is None,
        LEAST=LEAST_SUM,
        num_warps=1 if num_experts <= 256 else 4,
        **triton_early.options(logits_NX),
    )
    return Chosen(expert_NK, weight_NK)
