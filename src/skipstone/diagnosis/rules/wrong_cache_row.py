"""13: keys and values lie at the wrong row of the cache."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.deviation import Deviation
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.fit import nearest
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of
from skipstone.diagnosis.told import told
from skipstone.record import Tap, TensorKey
from skipstone.sentence import NOTHING, Code, Sentence, listed

# A row belongs to another position if it is this much nearer to it than to its own.
_CLEARLY = 10.0


def examine(case: Case) -> Answer:
    """Find whose rows the wrong values are: another position's, or another request's."""
    event = case.told("positions_disagree")
    if event is not None and "replace_position" in event.message:
        first = case.expected.first
        here = first is not None and first.step.forward == event.forward
        return Finding(
            rule=RULE.name,
            number=RULE.number,
            what=Sentence("keys and values are written to the wrong rows of the cache"),
            where=place(case.step_b(event.forward), 1, next(iter(event.positions_b), None)),
            evidence=told(event.message),
            experiment=NOTHING,
            proof=proof_of(removed=case.proof.fault_removed if here else None, added=None),
            remedy=Sentence("check the indices at {source}", source=Code(event.source)),
            positions=event.positions_b,
        )
    wrong = [d for d in (*case.tensors.cached_wrong, *case.tensors.born) if d.kind == "value"]
    for deviation in wrong:
        whose = _owner(case, deviation)
        if whose is not None:
            return _found(case, deviation, wrong, whose)
    return None


def _owner(case: Case, deviation: Deviation) -> Sentence | None:
    """Whose values these are, in words."""
    if case.tensors.recorded is None or case.tensors.expected is None or deviation.layer is None:
        return None
    trace, sample = case.tensors.recorded
    key = TensorKey(case.tensors.focus, Tap.VALUE, deviation.layer)
    recorded, right = trace.tensor(sample, key), case.tensors.expected.tensor(0, key)
    if recorded is None or right is None:
        return None
    wrong = recorded.at(deviation.positions)
    if not np.abs(wrong).any():
        return Sentence("zeros: they were never written")
    positions = np.sort(right.positions)
    match = nearest(wrong, right.at(positions))
    owner = positions[match.rows]
    # Equal inputs have equal values in the first layer: a row that is its own is nobody else's.
    own = right.at(deviation.positions)
    with np.errstate(divide="ignore", invalid="ignore"):
        own_error = np.linalg.norm(wrong - own, axis=1) / np.linalg.norm(own, axis=1)
    stray = (owner != deviation.positions) & (match.error < own_error / _CLEARLY)
    if match.share > 0.5 and stray.mean() > 0.5:
        pairs = zip(deviation.positions[:3].tolist(), owner[:3].tolist(), strict=True)
        held = (Sentence("{p} holds {q}", p=p, q=q) for p, q in pairs)
        return Sentence("those of other positions ({pairs})", pairs=listed(held))
    for other in range(len(trace.records)):
        rows = trace.tensor(other, key) if other != sample else None
        if rows is not None and nearest(wrong, rows.at(np.sort(rows.positions))).share > 0.5:
            return Sentence("those of request {request} of the batch", request=other)
    return None


def _found(case: Case, deviation: Deviation, wrong: list[Deviation], whose: Sentence) -> Finding:
    both = [
        d for d in (*case.tensors.cached_wrong, *case.tensors.born) if d.kind in ("key", "value")
    ]
    added = case.proof.with_only(both, "B's wrong cache rows")
    layers = {d.layer for d in wrong}
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the cache holds the keys and values of other rows"),
        where=place(deviation.step, deviation.layer, deviation.position),
        evidence=Sentence(
            "{positions} positions in {layers} layers hold {whose}",
            positions=deviation.positions.size,
            layers=len(layers),
            whose=whose,
        ),
        experiment=Sentence(
            "put B's rows into the reference run: B's scores"
            if added
            else "put B's rows into the reference run: not B's scores"
        ),
        proof=proof_of(removed=case.proof.fault_removed, added=added),
        remedy=Sentence("write and read the cache by absolute position and request"),
        positions=tuple(deviation.positions.tolist()),
    )


RULE = Rule(13, "wrong-cache-row", "wrong cache row, batch mix or length", examine)
