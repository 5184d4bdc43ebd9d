"""A skip rule that ranks rows was given something wrong: the finding, whatever the diagnosis is."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.case.skip_slip import Slip, StageSlip
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import place, proof_of_patch, tried
from skipstone.sentence import Code, Sentence

_WHAT: dict[Slip, Sentence] = {
    "number": Sentence("rows are ranked by states of other token positions"),
    "renewed": Sentence("rows are ranked by states of steps in which they had left"),
    "never": Sentence("rows are ranked by states that were never renewed"),
    "committed": Sentence("rows are ranked by confidences of tokens that are committed"),
    "older": Sentence("rows are ranked by the confidences of the step before the last"),
    "setting": Sentence("the skip setting that ran is not the one that was stated"),
    "count": Sentence("another part of the rows goes on than was stated"),
}
_REMEDY: dict[Slip, Sentence] = {
    "number": Sentence("gather the reference by absolute position"),
    "renewed": Sentence("renew the state of a row only where it goes on"),
    "never": Sentence("renew the state of a row in each step in which it goes on"),
    "committed": Sentence("a row that scores no mask of the block has the confidence 0"),
    "older": Sentence("hand the confidences of each step on to the next one"),
    "setting": Sentence("see which settings reach the skip rule"),
    "count": Sentence("see which part of the rows reaches the skip rule at each depth"),
}


def ranked(case: Case, name: str, number: int, slips: Collection[Slip]) -> Finding | None:
    """The finding, if one of these slips explains the rows that left.

    Args:
        case: the case.
        name: of the diagnosis.
        number: of the diagnosis.
        slips: those that the diagnosis is about.
    """
    found = case.stage_slip
    if found is None or found.slip not in slips:
        return None
    left = np.intersect1d(found.positions, found.step.skipped).tolist()
    return Finding(
        rule=name,
        number=number,
        what=_WHAT[found.slip],
        where=place(found.step, found.layer + 1, (left or found.positions)[0]),
        evidence=_evidence(found),
        experiment=tried(
            case.proof.fault_removed,
            Sentence("run on B's canvases with the stated rule: the decisions are A's"),
            Sentence("run on B's canvases with the stated rule: the decisions are not A's"),
        ),
        proof=proof_of_patch(case, case.proof.rows_reproduce),
        remedy=_REMEDY[found.slip],
        positions=found.positions,
        numbers={"explained": float(found.explained), "stages": float(found.stages)},
    )


def _evidence(found: StageSlip) -> Sentence:
    """How much is explained, in words."""
    said = {"explained": found.explained, "stages": found.stages, "stated": found.stated}
    if found.slip == "setting":
        return Sentence(
            "{setting} explains who goes on in {explained} of {stages} stages, the stated setting "
            "in {stated}",
            setting=Code(found.setting),
            **said,
        )
    if found.slip == "count":
        return Sentence(
            "after layer {layer} {going} rows go on, stated are {due}; those that rank highest do "
            "so in {explained} of {stages} stages",
            layer=found.layer,
            going=found.going,
            due=found.due,
            explained=found.explained,
            stages=found.stages,
        )
    return Sentence(
        "replayed from B's states, this explains who goes on in {explained} of {stages} stages, "
        "the stated rule in {stated}",
        **said,
    )
