"""What the logits of a step say about its masks, in a few numbers a mask.

A run has gigabytes of logits, and hundreds of rules are tried on them. So each step's logits are
read once, and reduced to what any rule can ask: the best ids, those that a rule may leave out or
raise, and sums over all others.

Shape letters: C masks, R rows of the call, V vocabulary, W watched ids, K = 2 + W kept ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from skipstone.diagnosis.dtypes import DTYPES, rounded, same
from skipstone.diagnosis.loop.rule import Confidence, Draw, SoftmaxAxis
from skipstone.record import Candidates, TensorRows

# Rows are reduced in pieces of this many bytes. A large vocabulary is summed from exponentials in
# float32, which is as good as the logits are.
_PIECE_BYTES = 32 << 20
_LARGE = 1 << 14
# Stands for minus infinity in sums: its exponential is zero, and times zero it is a number.
_NEVER = -1e30
# Ids above the one that was taken, kept for each mask.
_KEPT = 8


@dataclass(frozen=True, eq=False, repr=False)
class Sheet:
    """The logits of one step, reduced to what rules ask about its masks."""

    id_CK: np.ndarray
    """int64: the two best ids that are not watched, then the watched ones."""
    logit_CK: np.ndarray
    """float64: NaN where a mask has no scores."""
    rest_C: np.ndarray
    """float64: logarithm of the sum of exponentials of all other logits."""
    mean_C: np.ndarray
    """float64: mean of all other logits, weighted by probability; NaN if not known."""
    column_CK: dict[SoftmaxAxis, np.ndarray]
    """float64: the logarithm of the sum over rows, id by id; by the rows that are summed over."""
    taken_C: np.ndarray
    """float64: logit of the token that was written; NaN where none was."""
    above_C: np.ndarray
    """int64: how many ids have a larger logit than the token that was written."""
    above_ids: list[tuple[int, ...]]
    """Which these are, if they are at most eight."""
    watched: tuple[int, ...]
    """Ids that a rule may leave out or raise; they have a column each."""
    exact_C: np.ndarray | None = None
    """float64: confidence as the run itself had it."""


@dataclass(frozen=True, eq=False)
class Proposals:
    """What a draw proposes at each mask."""

    token_C: np.ndarray
    """int64: -1 where a mask has no scores."""
    best_C: np.ndarray
    """float64: its logit."""
    second_C: np.ndarray
    """float64: the best logit of another id."""
    log_p_C: np.ndarray
    """float64: logarithm of its probability; to the last digit where it is all but certain."""
    mean_C: np.ndarray
    """float64: mean logit, weighted by probability."""
    column_C: dict[SoftmaxAxis, np.ndarray]
    """float64: over rows, of the token's own logits; by the rows that are summed over."""
    exact_C: np.ndarray | None


def guided(tensor: TensorRows, hidden_NV: np.ndarray, weight: float, dtype: str) -> TensorRows:
    """Logits as a loop combines them with those of a hidden prompt, in the dtype of the run."""
    u_NV = hidden_NV.astype(np.float32)
    if dtype not in ("float16", "bfloat16"):
        u_NV += np.float32(weight) * (tensor.values.astype(np.float32) - u_NV)
        return replace(tensor, values=u_NV)
    apart_NV = rounded(tensor.values.astype(np.float32) - u_NV, dtype)
    return replace(tensor, values=rounded(u_NV + rounded(weight * apart_NV, dtype), dtype))


def from_logits(
    tensor: TensorRows,
    position_C: np.ndarray,
    written_C: np.ndarray,
    watched: tuple[int, ...],
    *,
    row_C: np.ndarray,
    across: Mapping[SoftmaxAxis, np.ndarray],
    dtype: str = "float64",
) -> Sheet:
    """Reduce the logits of a step.

    Args:
        tensor: the recorded rows.
        position_C: int32, the masks.
        written_C: int64, what was written there; -1 where nothing was.
        watched: ids that a rule may leave out or raise.
        row_C: int64, the row that scores each mask; -1 where it was not recorded.
        across: rows that a softmax over positions may sum over, by their name.
        dtype: that the logits are rounded to before anything else.
    """
    known = np.flatnonzero(row_C >= 0)
    count, kept = position_C.size, 2 + len(watched)
    sheet = _blank(count, watched)
    piece = max(1, _PIECE_BYTES // (4 * tensor.values.shape[1]))
    for start in range(0, known.size, piece):
        at = known[start : start + piece]
        _fill(sheet, at, _held(tensor.values[row_C[at]], dtype), written_C, watched)
    ids = np.unique(sheet.id_CK[known])
    for axis, rows in across.items():
        sums = _log_sum(_held(tensor.values[np.ix_(rows, ids)], dtype).astype(np.float64), axis=0)
        column_CK = np.full((count, kept), np.nan)
        column_CK[known] = sums[np.searchsorted(ids, sheet.id_CK[known])]
        sheet.column_CK[axis] = column_CK
    return sheet


def from_candidates(candidates: Candidates, position_C: np.ndarray, written_C: np.ndarray) -> Sheet:
    """What the candidates of a step say where no logits were recorded."""
    sheet = _blank(position_C.size, ())
    known, at = matched(position_C, candidates.position)
    first, second = candidates.confidence[at], candidates.runner_up_confidence[at]
    sheet.id_CK[known, 0] = candidates.token[at]
    sheet.id_CK[known, 1] = candidates.runner_up[at]
    with np.errstate(divide="ignore", invalid="ignore"):
        sheet.logit_CK[known] = np.log(np.stack([first, second], axis=1))
        sheet.rest_C[known] = np.log(np.maximum(1.0 - first - second, 0.0))
        own = candidates.token[at] == written_C[known]
        sheet.taken_C[known] = np.where(own, sheet.logit_CK[known, 0], np.nan)
    above = np.zeros(position_C.size, bool)
    above[known] = (written_C[known] >= 0) & (second > first)
    sheet.above_C[:] = above
    for i in known[above[known]].tolist():
        sheet.above_ids[i] = (int(sheet.id_CK[i, 1]),)
    exact = np.full(position_C.size, np.nan)
    exact[known] = first
    return replace(sheet, exact_C=exact)


def propose(sheet: Sheet, draw: Draw, written_C: np.ndarray) -> Proposals:
    """The tokens that a draw proposes, with what their confidence is made of."""
    logit_CK, summed_CK = sheet.logit_CK.copy(), sheet.logit_CK.copy()
    for number, watched in enumerate(sheet.watched, start=2):
        if watched in draw.without:
            logit_CK[:, number] = -np.inf
            if watched not in draw.still_summed:
                summed_CK[:, number] = -np.inf
        elif watched == draw.raised:
            logit_CK[:, number] += draw.by
            summed_CK[:, number] += draw.by
    # A mask without scores has none for what is left out either.
    logit_CK[np.isnan(sheet.logit_CK[:, 0])] = np.nan
    every = np.arange(logit_CK.shape[0])
    # Among equal logits the lowest id comes first, as argmax has it.
    order_CK = np.lexsort((sheet.id_CK, -logit_CK), axis=1)
    first, second = order_CK[:, 0], order_CK[:, 1]
    token_C, best_C = sheet.id_CK[every, first], logit_CK[every, first]
    runner_C = logit_CK[every, second]
    column_C = {axis: sums[every, first] for axis, sums in sheet.column_CK.items()}
    # Masks without scores are not numbers all the way.
    with np.errstate(invalid="ignore", over="ignore"):
        # Sums are taken from the best on: beside a large number the last digits would be lost.
        shown_C = _log_sum(summed_CK - best_C[:, None], axis=1)
        log_p_C = -np.logaddexp(shown_C, sheet.rest_C - best_C)
        share_CK = np.exp(summed_CK - best_C[:, None] + log_p_C[:, None])
        named_C = np.where(share_CK > 0, share_CK * summed_CK, 0.0).sum(axis=1)
        mean_C = named_C + np.exp(sheet.rest_C - best_C + log_p_C) * sheet.mean_C
    other = (written_C >= 0) & ~same(sheet.taken_C, best_C, 0.0) & np.isfinite(sheet.taken_C)
    if not draw.greedy and other.any():
        token_C = np.where(other, written_C, token_C)
        log_p_C = np.where(other, log_p_C + sheet.taken_C - best_C, log_p_C)
        best_C, runner_C = np.where(other, sheet.taken_C, best_C), np.where(other, best_C, runner_C)
    token_C = np.where(np.isnan(best_C), -1, token_C)
    tied = (written_C >= 0) & same(sheet.taken_C, best_C, 0.0)
    exact_C = None if draw.without or draw.raised >= 0 else sheet.exact_C
    return Proposals(
        np.where(tied, written_C, token_C), best_C, runner_C, log_p_C, mean_C, column_C, exact_C
    )


def confidences(proposals: Proposals, confidence: Confidence, position_C: np.ndarray) -> np.ndarray:
    """float64 [C]: what decides the order, larger first; NaN where it is not known."""
    p = proposals
    match confidence.kind:
        case "left to right":
            return -position_C.astype(np.float64)
        case "right to left":
            return position_C.astype(np.float64)
        case "any":
            return np.where(np.isnan(p.best_C), np.nan, 0.0)
        case "entropy":
            value_C = p.mean_C - p.best_C + p.log_p_C
        case "margin":
            with np.errstate(invalid="ignore"):
                value_C = np.exp(p.log_p_C) - np.exp(p.second_C - p.best_C + p.log_p_C)
        case "probability" if confidence.axis != "vocabulary":
            sums_C = p.column_C.get(confidence.axis, np.full(p.best_C.size, np.nan))
            value_C = np.exp(p.best_C - sums_C)
        case "probability" | "least probable":
            exact_C = p.exact_C
            value_C = np.exp(p.log_p_C) if exact_C is None else exact_C
            value_C = -value_C if confidence.kind == "least probable" else value_C
    value_C = rounded(value_C, confidence.dtype)
    if confidence.last:
        value_C = np.where(np.isin(p.token_C, confidence.last), -np.inf, value_C)
    return value_C


def _blank(count: int, watched: tuple[int, ...]) -> Sheet:
    id_CK = np.full((count, 2 + len(watched)), -1, np.int64)
    id_CK[:, 2:] = watched
    return Sheet(
        id_CK=id_CK,
        logit_CK=np.full(id_CK.shape, np.nan),
        rest_C=np.full(count, -np.inf),
        mean_C=np.full(count, np.nan),
        column_CK={},
        taken_C=np.full(count, np.nan),
        above_C=np.zeros(count, np.int64),
        above_ids=[() for _ in range(count)],
        watched=watched,
    )


def matched(wanted: np.ndarray, have: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the wanted positions are that are had, and where these stand."""
    if not have.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.argsort(have, kind="stable")
    found = np.minimum(np.searchsorted(have[order], wanted), have.size - 1)
    known = np.flatnonzero(have[order[found]] == wanted)
    return known, order[found[known]]


def _held(values: np.ndarray, dtype: str) -> np.ndarray:
    """Logits as a dtype holds them, ready to be computed with."""
    wide = np.float64 if values.shape[1] <= _LARGE else np.float32
    if dtype not in ("float64", "float32") and values.dtype.name != dtype:
        with np.errstate(over="ignore"):
            return values.astype(DTYPES[dtype]).astype(wide)
    if values.dtype.name == "bfloat16":
        # It is the upper half of a float32.
        values = (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return values.astype(wide, copy=False)
    return values.astype(wide)


def _fill(
    sheet: Sheet, at: np.ndarray, x_NV: np.ndarray, written_C: np.ndarray, watched: tuple[int, ...]
) -> None:
    """Reduce some rows; ``x_NV`` is used up."""
    every, written = np.arange(at.size), written_C[at]
    has = written >= 0
    taken_N = np.where(has, x_NV[every, np.maximum(written, 0)], np.nan)
    sheet.taken_C[at] = taken_N
    with np.errstate(invalid="ignore"):
        for i in np.flatnonzero(has).tolist():
            above = np.flatnonzero(x_NV[i] > taken_N[i])
            sheet.above_C[at[i]] = above.size
            if above.size <= _KEPT:
                sheet.above_ids[at[i]] = tuple(above.tolist())
    for number, token in enumerate(watched, start=2):
        sheet.logit_CK[at, number] = x_NV[:, token]
        x_NV[:, token] = _NEVER
    for number in (0, 1):
        best = x_NV.argmax(axis=1)
        sheet.id_CK[at, number] = best
        sheet.logit_CK[at, number] = x_NV[every, best]
        x_NV[every, best] = _NEVER
    peak_N = x_NV.max(axis=1)
    peak_N = np.where(np.isfinite(peak_N), peak_N, 0.0).astype(x_NV.dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        power_NV = np.exp(x_NV - peak_N[:, None])
        sum_N = power_NV.sum(axis=1, dtype=np.float64)
        sheet.rest_C[at] = peak_N + np.log(sum_N)
        sheet.mean_C[at] = np.where(sum_N > 0, _weighted(power_NV, x_NV) / sum_N, 0.0)


def _weighted(power_NV: np.ndarray, x_NV: np.ndarray) -> np.ndarray:
    """float64 [N]: the sum of x, weighted; an entry of minus infinity counts for nothing."""
    total_N = np.einsum("nv,nv->n", power_NV, x_NV)
    if np.isnan(total_N).any():
        np.copyto(x_NV, 0.0, where=np.isneginf(x_NV))
        total_N = np.einsum("nv,nv->n", power_NV, x_NV)
    return total_N.astype(np.float64)


def _log_sum(values: np.ndarray, axis: int) -> np.ndarray:
    peak = values.max(axis=axis, keepdims=True)
    peak = np.where(np.isfinite(peak), peak, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(np.exp(values - peak).sum(axis=axis)) + np.squeeze(peak, axis)
