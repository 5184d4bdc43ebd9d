"""What can be said of a rule that is not known: whether its tokens, or its order, are not A's.

Each is said only where its rivals are out. Tokens of a neighbour's row are a matter of rows; better
masks that stand in a later block are a matter of blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from skipstone.diagnosis.dtypes import same
from skipstone.diagnosis.loop.chance import from_neighbours
from skipstone.diagnosis.loop.choice import BlockProgress, within
from skipstone.diagnosis.loop.evidence import Decision, Evidence
from skipstone.diagnosis.loop.rule import LoopRule
from skipstone.diagnosis.loop.sheet import confidences


def unlike(
    rule: LoopRule, evidence: Evidence, number: int, place: BlockProgress, due: int
) -> tuple[Literal["tokens", "order"], ...]:
    """What a decision does otherwise than a rule that explains the other run.

    Args:
        rule: of the other run.
        evidence: of this run, which no rule explains.
        number: of the decision where the runs part.
        place: where it stands in the blocks of the other run.
        due: so many the other run commits from the same scores.
    """
    decision = evidence.decisions[number]
    done_C = decision.committed
    proposals = evidence.proposals(number, rule.draw, rule.confidence.dtype)
    odd_C = done_C & (proposals.token_C != decision.written_C)
    inside_C = within(decision, place, rule.region)
    if (done_C & ~inside_C).any() or not done_C.any() or not rule.draw.greedy:
        return ()
    if odd_C.any():
        moved = from_neighbours(evidence, (number,), rule.draw)
        return ("tokens",) if evidence.drew_nothing and evidence.complete and not moved else ()
    plain = evidence.drawn(rule.draw).all()
    if not plain or int(done_C.sum()) != due or len(evidence.trace.records) > 1:
        return ()
    value_C = confidences(proposals, rule.confidence, decision.position_C)
    worst = float(np.min(value_C[done_C]))
    better_C = inside_C & ~done_C & (value_C > worst) & ~same(value_C, np.array(worst), 1e-6)
    passed = decision.position_C[better_C].tolist()
    later = evidence.decisions[number:]
    return ("order",) if any(not _in_a_later_block(p, later) for p in passed) else ()


def _in_a_later_block(passed: int, later: Sequence[Decision]) -> bool:
    """Whether a block may end between what was committed and a position that was passed over.

    Then everything before its end is committed before anything behind it.
    """
    order = [d.position_C[d.committed] for d in later]
    first = int(order[0].max()) + 1
    left = [p for p in later[0].position_C.tolist() if first <= p <= passed]
    return any(_done_first(order, end) for end in left)


def _done_first(order: list[np.ndarray], end: int) -> bool:
    before = [i for i, at in enumerate(order) if (at < end).any()]
    behind = [i for i, at in enumerate(order) if (at >= end).any()]
    return not behind or max(before) < min(behind)
