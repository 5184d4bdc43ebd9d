"""Layers computed other rows than the cache policy chooses: the finding, whatever the diagnosis."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.case.layer_choice import ChoiceSlip, LayerChoice
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import place, proof_of_patch, stated_cache_tried
from skipstone.sentence import Sentence

_WHAT: dict[ChoiceSlip, Sentence] = {
    "due": Sentence("rows that are due are left out of layers: an interval is forgotten"),
    "none": Sentence("layers compute no row, as if none had moved"),
    "number": Sentence("layers compute rows by their number, and not by their position"),
    "layer": Sentence("layers compute the rows that another layer should have chosen"),
    "fewer": Sentence("layers compute fewer rows than the cache policy chooses"),
    "more": Sentence("layers compute more rows than the cache policy chooses"),
    "others": Sentence("layers compute other rows than the cache policy chooses"),
}
_REMEDY: dict[ChoiceSlip, Sentence] = {
    "due": Sentence("compare the forwards in which rows are due with the stated intervals"),
    "none": Sentence("compare rows with what they were in an earlier forward, not with themselves"),
    "number": Sentence("take the chosen rows by their place among all rows that came"),
    "layer": Sentence("choose in each layer by the values of that layer"),
    "fewer": Sentence("see which settings reach the cache policy"),
    "more": Sentence("see which settings reach the cache policy"),
    "others": Sentence("see what the cache policy compares, and in which order it takes rows"),
}


def chosen_rows(
    case: Case, name: str, number: int, slips: Collection[ChoiceSlip]
) -> Finding | None:
    """The finding, if layers computed other rows in one of these ways.

    Args:
        case: the case.
        name: of the diagnosis.
        number: of the diagnosis.
        slips: those that the diagnosis is about.
    """
    found = case.layer_choice
    if found is None or found.slip not in slips:
        return None
    positions = np.union1d(found.missing, found.extra)
    return Finding(
        rule=name,
        number=number,
        what=_WHAT[found.slip],
        where=place(found.step, found.layer, int((*found.missing, *found.extra)[0])),
        evidence=_evidence(found),
        experiment=stated_cache_tried(case),
        proof=proof_of_patch(case, case.proof.rows_reproduce),
        remedy=_REMEDY[found.slip],
        positions=tuple(positions.tolist()),
        numbers={"explained": float(found.explained), "layers": float(found.layers)},
    )


def _evidence(found: LayerChoice) -> Sentence:
    """What is computed, and what should be, in words."""
    template = (
        "from what entered layer {layer} in B, the cache policy computes {due} rows; B computes "
        "{computed}: {missing} are missing and {extra} are not due, and so in {layers} layers"
        if found.part == "layer"
        else "from what entered layer {layer} in B, the cache policy computes the MLP of {due} "
        "rows; B that of {computed}: {missing} are missing and {extra} are not due, and so in "
        "{layers} layers"
    )
    return Sentence(
        template,
        layer=found.layer,
        due=found.due,
        computed=found.computed,
        missing=found.missing.size,
        extra=found.extra.size,
        layers=found.layers,
    )
