"""What a layer has kept of the rows that it leaves out is wrong: the finding, whatever it is."""

from __future__ import annotations

from collections.abc import Collection

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.case.keeping import KeptSlip, KeptWrong
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import cache_of, place, proof_of_patch, tried
from skipstone.sentence import NOTHING, Sentence, listed

_REMEDY: dict[KeptSlip, Sentence] = {
    "nothing": Sentence("keep what a layer adds to a row whenever it computes the row"),
    "old": Sentence("keep what a layer adds to a row whenever it computes the row"),
    "row": Sentence("keep and take what layers add by absolute position"),
    "others": Sentence("see when what is kept of a row is written, and where it is taken from"),
}


def kept_rows(case: Case, name: str, number: int, slips: Collection[KeptSlip]) -> Finding | None:
    """The finding, if what was kept is wrong in one of these ways.

    Args:
        case: the case.
        name: of the diagnosis.
        number: of the diagnosis.
        slips: those that the diagnosis is about.
    """
    found = case.kept_wrong
    if found is None or found.slip not in slips:
        return None
    added = case.proof.with_only(found.wrong, "what B added to rows that it left out")
    return Finding(
        rule=name,
        number=number,
        what=_what(case, found.slip),
        where=place(found.step, found.layer, int(found.positions[0])),
        evidence=listed(
            [
                Sentence(
                    "layer {layer} leaves out {rows} rows whose states come out wrong by "
                    "{error:.2g} (floor {floor:.1g}) from B's own input, and so in {layers} "
                    "layers; all rows that are computed are right",
                    layer=found.layer,
                    rows=found.positions.size,
                    error=found.size,
                    floor=found.floor,
                    layers=len(found.wrong),
                ),
                _whose(found),
            ]
        ),
        experiment=tried(
            added,
            Sentence("put these rows of B into the reference run: B's scores"),
            Sentence("put these rows of B into the reference run: not B's scores"),
        ),
        proof=proof_of_patch(case, added),
        remedy=_REMEDY[found.slip],
        positions=tuple(found.positions.tolist()),
    )


def _what(case: Case, slip: KeptSlip) -> Sentence:
    """What is wrong, with the name of the cache policy."""
    cache = cache_of(case)
    words: dict[KeptSlip, Sentence] = {
        "nothing": Sentence(
            "layers add nothing to rows that {cache} leaves out: nothing was kept", cache=cache
        ),
        "old": Sentence(
            "layers add what is too old to rows that {cache} leaves out: it was not kept since",
            cache=cache,
        ),
        "row": Sentence(
            "layers add to rows that {cache} leaves out what was kept of other rows", cache=cache
        ),
        "others": Sentence(
            "layers add something else than was kept to rows that {cache} leaves out", cache=cache
        ),
    }
    return words[slip]


def _whose(found: KeptWrong) -> Sentence:
    """Whose values are added, in words."""
    if found.slip == "old":
        return Sentence(
            "what is added to the first is what this layer added in forward {forward}",
            forward=found.other,
        )
    if found.slip == "row":
        return Sentence(
            "what is added to the first belongs to position {position}", position=found.other
        )
    return NOTHING
