"""Rows joined in the midst of a forward elsewhere than the cache policy says: the finding."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.case.joining import JoinedElsewhere, JoinSlip
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import cache_of, place, proof_of_patch, stated_cache_tried
from skipstone.sentence import Sentence


def joined_rows(case: Case, name: str, number: int) -> Finding | None:
    """The finding, if rows joined before other layers.

    Args:
        case: the case.
        name: of the diagnosis.
        number: of the diagnosis.
    """
    found = case.joined_elsewhere
    if found is None:
        return None
    return Finding(
        rule=name,
        number=number,
        what=_what(case, found.slip),
        where=place(found.step, found.layer, int(found.positions[0])),
        evidence=_evidence(found),
        experiment=stated_cache_tried(case),
        proof=proof_of_patch(case, case.proof.rows_reproduce),
        remedy=Sentence(
            "see what the cache policy watches in each layer, with what it compares that, and on "
            "which side of its bound it acts"
        ),
        positions=tuple(found.positions.tolist()),
    )


def _what(case: Case, slip: JoinSlip) -> Sentence:
    """What is wrong, with the name of the cache policy."""
    policy = cache_of(case)
    words: dict[JoinSlip, Sentence] = {
        "never": Sentence(
            "rows that {policy} computes from a layer on are left out", policy=policy
        ),
        "unasked": Sentence(
            "rows are computed from a layer on that {policy} leaves out", policy=policy
        ),
        "late": Sentence(
            "rows are computed from a later layer on than {policy} says", policy=policy
        ),
        "early": Sentence(
            "rows are computed from an earlier layer on than {policy} says", policy=policy
        ),
        "others": Sentence(
            "other rows are computed from a layer on than {policy} says", policy=policy
        ),
    }
    return words[slip]


def _evidence(found: JoinedElsewhere) -> Sentence:
    """Where rows join, and where they should, in words."""
    nothing = Sentence("none join")
    due, mine = (
        Sentence("{rows} join before layer {layer}", rows=rows.size, layer=layer)
        if rows.size
        else nothing
        for rows, layer in (
            (found.due, found.due_before),
            (found.joined, found.joined_before),
        )
    )
    return Sentence(
        "{rows} rows enter layer 1; from what entered each layer in B, the cache policy says that "
        "of the others {due}; in B {mine}",
        rows=found.step.rows.size,
        due=due,
        mine=mine,
    )
