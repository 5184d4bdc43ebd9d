"""The operations of decisions, as scorer and policies call them: each by whoever is fastest here.

Shape letters as in ``reference``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipstone.canvas import StepContext
from skipstone.ops.backend import absence, refusal
from skipstone.ops.decide import reference
from skipstone.ops.decide.reference import Bars, Committed, Cut, Judged, References, Scored
from skipstone.rows import Rows

__all__ = [
    "Bars",
    "Committed",
    "Cut",
    "Judged",
    "References",
    "Scored",
    "commit",
    "eligible",
    "judge",
    "rank",
    "replace",
    "scheduled",
    "score",
    "similarity",
    "write_scores",
]


def score(
    logits_NV: Tensor,
    mask_id: int,
    gumbel_NV: Tensor | None,
    *,
    entropy: bool = False,
    cuts: Sequence[Cut] = (),
) -> Scored:
    """See ``reference.score``; the kernel decides in float32, draws nothing and cuts nothing."""
    if gumbel_NV is not None or cuts or refusal(logits_NV):
        return reference.score(logits_NV, mask_id, gumbel_NV, entropy=entropy, cuts=cuts)
    from skipstone.ops.decide import triton_score

    return triton_score.score(logits_NV, mask_id, entropy=entropy)


def similarity(
    states: Sequence[Tensor], references: References, rows: Rows, dtype: torch.dtype
) -> Tensor:
    """See ``reference.similarity``; the kernel computes in float32 only."""
    if dtype != torch.float32 or refusal(states[0]):
        return reference.similarity(states, references, rows, dtype)
    from skipstone.ops.decide import triton_skip

    return triton_skip.similarity(states, references, rows)


def judge(
    similarity_SN: Tensor, references: References, rows: Rows, committed_BL: Tensor, bars: Bars
) -> Judged:
    """See ``reference.judge``."""
    if refusal(references.states_SBWD):
        return reference.judge(similarity_SN, references, rows, committed_BL, bars)
    from skipstone.ops.decide import triton_skip

    return triton_skip.judge(similarity_SN, references, rows, committed_BL, bars)


def replace(
    states: Sequence[Tensor],
    references: References,
    rows: Rows,
    keep_N: Tensor | None,
    forward_B1: Tensor,
) -> None:
    """See ``reference.replace``."""
    if refusal(states[0]):
        reference.replace(states, references, rows, keep_N, forward_B1)
        return
    from skipstone.ops.decide import triton_skip

    triton_skip.replace(states, references, rows, keep_N, forward_B1)


def rank(key_BG: Tensor) -> Tensor:
    """See ``reference.rank``."""
    if absence(key_BG) or key_BG.dtype != torch.float64:
        return reference.rank(key_BG)
    from skipstone.ops.decide import triton_board

    return triton_board.rank(key_BG)


def scheduled(rank_BG: Tensor, confidence_BG: Tensor, context: StepContext) -> Tensor:
    """See ``reference.scheduled``."""
    if absence(confidence_BG):
        return reference.scheduled(rank_BG, confidence_BG, context)
    from skipstone.ops.decide import triton_board

    return triton_board.scheduled(rank_BG, confidence_BG, context)


def write_scores(
    tables: Sequence[Tensor],
    scored: Scored,
    rows: Rows,
    index_2N: Tensor,
    kept_N: Tensor | None,
    context: StepContext,
) -> None:
    """See ``reference.write_scores``."""
    if absence(index_2N):
        reference.write_scores(tables, scored, rows, index_2N, kept_N, context)
        return
    from skipstone.ops.decide import triton_board

    triton_board.write_scores(tables, scored, rows, index_2N, kept_N, context)


def eligible(
    scored_at_BG: Tensor, confidence_BG: Tensor, led_by: Rows | None, context: StepContext
) -> Tensor:
    """See ``reference.eligible``."""
    if absence(confidence_BG):
        return reference.eligible(scored_at_BG, confidence_BG, led_by, context)
    from skipstone.ops.decide import triton_board

    return triton_board.eligible(scored_at_BG, confidence_BG, led_by, context)


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
    """See ``reference.commit``."""
    if absence(confidence_BG):
        serving = reference
    else:
        from skipstone.ops.decide import triton_board as serving
    return serving.commit(
        chosen_BG,
        confidence_BG,
        token_BG,
        context,
        eos_id,
        ends_from_B1,
        revoked_id=revoked_id,
    )
