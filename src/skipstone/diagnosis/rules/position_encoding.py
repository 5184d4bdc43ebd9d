"""14: keys are rotated for another position than their own."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.deviation import Deviation
from skipstone.diagnosis.events import event_sentence
from skipstone.diagnosis.experiment import Choice, Follow, Turn
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.fit import head_widths, same_length, shift, turned
from skipstone.diagnosis.rule import Answer, Rule, of_attention, place, proof_of_patch, tried
from skipstone.record import Tap, TensorKey
from skipstone.sentence import NOTHING, Code, Sentence

_FITS = 0.999
_LED: frozenset[Choice] = frozenset(("rows", "skip"))
_BY = (-1, 1, -2, 2)
_TURNS = (
    *(Turn(queries=by) for by in _BY),
    *(Turn(queries=by, keys=by) for by in _BY),
    *(Turn(keys=by) for by in _BY),
    *(Turn(base=base) for base in (1e4, 5e5, 1e6)),
    *(Turn(stretch=stretch) for stretch in (0.5, 0.25, 0.125, 2.0)),
    Turn(pairs="neighbours"),
    Turn(pairs="neighbours by angles of halves"),
    Turn(rounded=True),
)
"""What is tried, the likeliest first."""
_OF_OTHER_ROWS = frozenset(Turn(queries=q, keys=k) for q in (0, *_BY) for k in (0, *_BY))


def examine(case: Case) -> Answer:
    """A call that names other positions than its rows have, or keys that are turned too far."""
    return (
        _stated_elsewhere(case)
        or _turned(case)
        or _turned_unseen(case)
        or of_attention(case, RULE.name, RULE.number)
    )


def _stated_elsewhere(case: Case) -> Finding | None:
    """The position ids of a call are not those that its token ids have on the canvas."""
    event = case.event("positions_disagree")
    if event is None or "replace_position" in event.message:
        return None
    shown = case.expected.first is not None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the call gives its rows other positions than they have"),
        where=place(case.step_b(event.forward), 1, next(iter(event.positions_a), None)),
        evidence=event_sentence(event.message),
        experiment=tried(
            case.proof.fault_removed,
            Sentence("run on B's canvases with the right positions: the reference decides as A"),
            Sentence(
                "run on B's canvases with the right positions: the reference does not decide as A"
            ),
        )
        if shown
        else NOTHING,
        proof=Proof.CONSISTENT if shown else Proof.OBSERVED,
        remedy=Sentence(
            "pass the absolute positions of the rows at {source}", source=Code(event.source)
        ),
        positions=event.positions_a,
    )


def _turned(case: Case) -> Finding | None:
    """Keys differ by a rotation while values are right."""
    keys = [d for d in case.tensors.born if d.kind == "key"]
    values = {d.layer for d in case.tensors.born if d.kind == "value"}
    keys = [d for d in keys if d.layer not in values]
    if not keys or case.held is not None:
        return None
    rotated = _rotation(case, keys[0])
    if rotated is None:
        return None
    degrees, fit, exactly = rotated
    wrong = [d for d in case.tensors.born if d.kind in ("key", "state")]
    added = case.proof.with_only(wrong, "B's rotated keys")
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("keys carry the rotary encoding of another position"),
        where=place(keys[0].step, keys[0].layer, keys[0].position),
        evidence=Sentence(
            "keys of {positions} positions in {layers} layers are the right ones turned by "
            "{distance} (fit {fit:.4f}); lengths and values are right",
            positions=keys[0].positions.size,
            layers=len(keys),
            distance=_distance(degrees, exactly=exactly),
            fit=fit,
        ),
        experiment=tried(
            added,
            Sentence("put B's keys into the reference run: B's scores"),
            Sentence("put B's keys into the reference run: not B's scores"),
        ),
        proof=proof_of_patch(case, added),
        remedy=Sentence("pass the absolute positions of the rows to the rotary embedding"),
        positions=tuple(keys[0].positions.tolist()),
    )


def _turned_unseen(case: Case) -> Finding | None:
    """Queries, or keys that were not recorded, are turned: runs with such a turn score as B."""
    turn = other_turn(case)
    if turn is None:
        return None
    first = next(d for d in case.tensors.born if d.kind == "state" and d.layer)
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("{rows} carry the rotary encoding of another position", rows=_rows_of(turn))
        if turn in _OF_OTHER_ROWS
        else Sentence("queries and keys are rotated otherwise than the model says"),
        where=place(first.step, first.layer, first.position),
        evidence=Sentence(
            "states of {positions} positions are wrong in every layer, by {error:.2g} (floor "
            "{floor:.1g}), from right inputs",
            positions=first.positions.size,
            error=first.size,
            floor=first.floor,
        ),
        experiment=Sentence(
            "turned {rows} by {turn} in the reference run: B's scores",
            rows=_rows_of(turn),
            turn=_turn(turn),
        ),
        proof=proof_of_patch(case, True),
        remedy=Sentence("pass the absolute positions of the rows to the rotary embedding")
        if turn in _OF_OTHER_ROWS
        else Sentence("compare the rotary embedding with the published one"),
        positions=tuple(first.positions.tolist()),
    )


def other_turn(case: Case) -> Turn | None:
    """The turn of queries or keys with which the reference scores as B; None if none does.

    Only asked where states are wrong in most layers, and what can be seen of keys and values is
    right.
    """
    layers = {d.layer for d in case.tensors.born if d.kind == "state" and d.layer}
    most = len(layers) >= max(1, case.record_b.header.num_layers // 2)
    wrong_kv = case.tensors.cached_wrong or [d for d in case.tensors.born if d.kind == "value"]
    if case.tensors.local is None or not most or wrong_kv:
        return None
    window = (case.tensors.focus, case.tensors.focus)
    for turn in _TURNS:
        led = Follow("b", case.runs.settings, window, led=_LED, turn=turn, tensors=False)
        if case.proof.reproduces(case.ask(led)):
            return turn
    return None


def _rows_of(turn: Turn) -> Sentence:
    if turn.queries and not turn.keys:
        return Sentence("queries")
    return Sentence("keys") if turn.keys and not turn.queries else Sentence("queries and keys")


def _turn(turn: Turn) -> Sentence:
    if turn.base:
        return Sentence("angles of another base ({base:g})", base=turn.base)
    if turn.stretch != 1:
        return Sentence("angles of {stretch:g} times their position", stretch=turn.stretch)
    if turn.pairs == "neighbours":
        return Sentence("angles for neighbours as pairs, not for the two halves of a head")
    if turn.pairs == "neighbours by angles of halves":
        return Sentence("angles for the two halves of a head, with neighbours taken as pairs")
    if turn.rounded:
        return Sentence("angles in bfloat16")
    return Sentence("{positions:+d} positions", positions=turn.queries or turn.keys)


def _distance(degrees: float, *, exactly: bool) -> Sentence:
    """How far keys are turned, in words."""
    if not exactly:
        return Sentence("{angle:+.2f} radians", angle=degrees)
    if not round(degrees):
        return Sentence("angles that no shift of positions gives: another base or scaling")
    return Sentence("{positions:+d} positions", positions=round(degrees))


def _rotation(case: Case, deviation: Deviation) -> tuple[float, float, bool] | None:
    """Turn of the fastest pair in radians, how well it fits, and if it is a whole number."""
    # Without a model, both sides had the same input up to the first layer that is wrong.
    reference = case.tensors.local or case.tensors.expected
    if case.tensors.recorded is None or reference is None or deviation.layer is None:
        return None
    trace, sample = case.tensors.recorded
    key = TensorKey(case.tensors.focus, Tap.KEY, deviation.layer)
    recorded, right = trace.tensor(sample, key), reference.tensor(0, key)
    if recorded is None or right is None:
        return None
    wrong_NW, right_NW = recorded.at(deviation.positions), right.at(deviation.positions)
    if not same_length(wrong_NW, right_NW):
        return None
    widths = [w for w in head_widths(wrong_NW.shape[1]) if turned(wrong_NW, right_NW, w)]
    if not widths:
        return None
    best = max((shift(wrong_NW, right_NW, w) for w in widths), key=lambda s: s[1])
    exactly = abs(best[0] - round(best[0])) < 1e-2 and best[1] > _FITS
    return best[0], best[1], bool(exactly and np.isfinite(best[0]))


RULE = Rule(14, "position-encoding", "position encoding mismatch", examine)
