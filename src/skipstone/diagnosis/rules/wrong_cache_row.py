"""13: keys and values are in the wrong row, the wrong layer or the wrong tensor."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.case.held import Held
from skipstone.diagnosis.events import event_sentence, writes
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.kept_rows import kept_rows
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of_patch, tried
from skipstone.sentence import NOTHING, Code, Sentence, listed

_SHOWN = 3


def examine(case: Case) -> Answer:
    """Find whose rows the wrong values are: another position's, layer's, or request's."""
    return _seen(case) or _compared(case) or kept_rows(case, RULE.name, RULE.number, ("row",))


def _seen(case: Case) -> Finding | None:
    """The sanitizer saw rows being written where they do not belong."""
    event = case.event("positions_disagree")
    if event is None or "replace_position" not in event.message:
        event = case.event("misaligned_rows")
        if event is None or not writes(event.message):
            return None
    first = case.expected.first
    here = first is not None and first.step.forward == event.forward
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("keys and values are written to the wrong rows of the cache"),
        where=place(case.step_b(event.forward), 1, next(iter(event.positions_b), None)),
        evidence=event_sentence(event.message),
        experiment=NOTHING,
        proof=Proof.CONSISTENT if here else Proof.OBSERVED,
        remedy=Sentence("check the indices at {source}", source=Code(event.source)),
        positions=event.positions_b,
    )


def _compared(case: Case) -> Finding | None:
    """Hold the wrong rows against all others."""
    found = case.held
    if found is None or found.kind in ("old", "zeros"):
        return None
    added = case.proof.with_only(found.wrong, "B's wrong cache rows")
    first = found.first
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=_what(found),
        where=place(first.step, first.layer, first.position),
        evidence=Sentence(
            "{positions} positions in {layers} layers hold {whose}",
            positions=first.positions.size,
            layers=found.layers,
            whose=_whose(found),
        ),
        experiment=tried(
            added,
            Sentence("put B's rows into the reference run: B's scores"),
            Sentence("put B's rows into the reference run: not B's scores"),
        ),
        proof=proof_of_patch(case, added),
        remedy=Sentence("write and read the cache by absolute position, layer and request"),
        positions=tuple(first.positions.tolist()),
    )


def _what(found: Held) -> Sentence:
    if found.kind == "swapped":
        return Sentence("keys and values of the cache are swapped")
    if found.kind == "layer":
        return Sentence(
            "layer {layer} reads the cache of layer {other}",
            layer=found.first.layer,
            other=found.other,
        )
    if found.kind == "heads":
        return Sentence("the heads of cached rows are in another order")
    return Sentence("the cache holds the keys and values of other rows")


def _whose(found: Held) -> Sentence:
    """Whose rows these are, in words."""
    if found.kind == "swapped":
        return Sentence("keys where values belong, or values where keys do")
    if found.kind == "layer":
        return Sentence("those of another layer, at the right positions")
    if found.kind == "heads":
        return Sentence("the right rows, cut into heads in another order")
    if found.kind == "request":
        return Sentence("those of request {request} of the batch", request=found.other)
    held = (Sentence("{p} holds {q}", p=p, q=q) for p, q in found.owners[:_SHOWN])
    return Sentence("those of other positions ({pairs})", pairs=listed(held))


RULE = Rule(13, "wrong-cache-row", "wrong cache row, batch mix or length", examine)
