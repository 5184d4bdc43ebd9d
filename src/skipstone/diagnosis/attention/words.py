"""A cause within attention, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from skipstone.diagnosis.attention.call import HALF
from skipstone.diagnosis.attention.cause import Cause
from skipstone.diagnosis.attention.difference import AttentionDifference, AttentionPart
from skipstone.diagnosis.attention.relation import Relation
from skipstone.diagnosis.finding import Finding, Place, Proof
from skipstone.sentence import NOTHING, Code, Sentence, listed

_PARTS: dict[AttentionPart, Sentence] = {
    "visible": Sentence("visible set"),
    "scale": Sentence("scale"),
    "sharing": Sentence("sharing of heads"),
    "rounding": Sentence("rounding of scores and weights"),
    "queries": Sentence("queries"),
    "keys": Sentence("keys"),
    "values": Sentence("values"),
}
_DIVIDED = Sentence("the scores of attention are divided by the width of a head, not by its root")
_NOT_DIVIDED = Sentence(
    "the scores of attention are not divided by the root of the width of a head"
)


def finding(cause: Cause, number: int) -> Finding:
    """The cause, ready to be shown.

    Args:
        cause: what was found.
        number: of its diagnosis.
    """
    found, step = cause.found, cause.found.step
    positions = tuple(found.positions.tolist())
    return Finding(
        rule=cause.name,
        number=number,
        what=_what(cause),
        where=Place(step.block, step.step, found.layer, positions[0]),
        evidence=listed([*_which(found), _evidence(cause), _size(found)]),
        experiment=_experiment(cause),
        # The experiment is one of a layer's attention: no decision is made again without a model.
        proof=Proof.CONSISTENT,
        remedy=_remedy(cause),
        positions=positions,
    )


def named(parts: Sequence[AttentionPart]) -> Sentence:
    """Parts of what attention is given, as a list."""
    words = [
        _PARTS[part]
        for part in ("visible", "scale", "sharing", "rounding", "queries", "keys", "values")
        if part in parts
    ]
    said = words[0]
    for word in words[1:-1]:
        said = Sentence("{first}, {then}", first=said, then=word)
    return said if len(words) == 1 else Sentence("{first} and {then}", first=said, then=words[-1])


def _what(cause: Cause) -> Sentence:
    if cause.name == "visible-set":
        return Sentence("attention sees other keys than it should")
    if cause.name == "position-encoding":
        return _turned(cause)
    if cause.parts == ("rounding",):
        return _coarser(cause.found)
    if cause.name == "quantised":
        assert cause.relation is not None
        return Sentence(
            "{tensors} are rounded to {format}",
            tensors=named(cause.parts),
            format=cause.relation.format,
        )
    if cause.name == "nondeterminism":
        return Sentence("attention drops weights at random: dropout is left on")
    if cause.parts == ("sharing",):
        return Sentence("query heads read other heads of keys or values than A's")
    if cause.parts == ("arithmetic",):
        return Sentence("attention gives something else than what it was given makes")
    if cause.parts == ("scale",):
        return _scaled(cause.found, cause.found.b.scale / cause.found.a.scale)
    if cause.relation is None:
        return Sentence("queries and keys change places")
    return _related(cause, cause.relation)


def _related(cause: Cause, relation: Relation) -> Sentence:
    rows = named(cause.parts)
    if relation.kind == "scaled" and cause.parts in (("queries",), ("keys",)):
        return _scaled(cause.found, relation.amount)
    if relation.kind == "scaled":
        return Sentence("{rows} are {factor:.4g} times A's", rows=rows, factor=relation.amount)
    if relation.kind == "heads":
        return Sentence("the heads of {rows} stand in another order", rows=rows)
    return Sentence("a bias of {rows} is there in only one of the runs, or another", rows=rows)


def _scaled(found: AttentionDifference, factor: float) -> Sentence:
    width = found.b.query_NHW.shape[-1]
    if np.isclose(factor, width**-0.5, rtol=1e-3):
        return _DIVIDED
    if np.isclose(factor, width**0.5, rtol=1e-3):
        return _NOT_DIVIDED
    return Sentence("the scores of attention are {factor:.4g} times A's", factor=factor)


def _coarser(found: AttentionDifference) -> Sentence:
    a, b = found.a, found.b
    if b.scored in HALF and a.scored != b.scored:
        return Sentence(
            "scores of attention are rounded to {format} before the softmax", format=b.scored
        )
    if b.weighed in HALF and a.weighed != b.weighed:
        return Sentence("weights of attention are rounded to {format}", format=b.weighed)
    return Sentence("scores or weights of attention are rounded in A only")


def _turned(cause: Cause) -> Sentence:
    assert cause.relation is not None
    if cause.relation.kind in ("shift", "rows"):
        return Sentence(
            "{rows} carry the rotary encoding of another position", rows=_rows_of(cause)
        )
    if cause.relation.kind == "rounded":
        return Sentence(
            "{rows} are rotated in {format}", rows=_rows_of(cause), format=cause.relation.format
        )
    return Sentence("{rows} are rotated otherwise than A's", rows=_rows_of(cause))


def _rows_of(cause: Cause) -> Sentence:
    return Sentence("cached keys") if cause.cached else named(cause.parts)


def _which(found: AttentionDifference) -> Iterator[Sentence]:
    if found.call:
        yield Sentence("it is call {call} of attention in the layer", call=found.call + 1)


def _evidence(cause: Cause) -> Sentence:
    found, relation = cause.found, cause.relation
    if cause.name == "visible-set":
        return listed(_visible(found))
    if cause.parts == ("sharing",):
        return listed(_sharing(found))
    if cause.name == "nondeterminism":
        a, b = found.a.drops, found.b.drops
        return Sentence("share of weights dropped: {a:.3g} in A, {b:.3g} in B", a=a, b=b)
    if cause.parts == ("scale",):
        return Sentence("scale {a:.4g} in A, {b:.4g} in B", a=found.a.scale, b=found.b.scale)
    if relation is None:
        return NOTHING
    if cause.name == "position-encoding":
        return Sentence("they are A's, turned by {turn}; values are A's", turn=_turn(relation))
    if relation.kind == "rounded":
        return Sentence(
            "all their values lie on the {format} grid, A's do not", format=relation.format
        )
    return Sentence("every row that differs does so in this one way")


def _turn(relation: Relation) -> Sentence:
    if relation.kind == "shift":
        return Sentence("{positions:+d} positions", positions=int(relation.amount))
    if relation.kind == "stretch":
        return Sentence(
            "angles of {stretch:g} times their position", stretch=round(relation.amount, 4)
        )
    if relation.kind == "rows":
        return Sentence("whole positions that differ from row to row")
    if relation.kind == "pairs":
        return Sentence("angles for other pairs of a head's numbers")
    if relation.kind == "rounded":
        return Sentence("angles in {format}", format=relation.format)
    return Sentence("angles that no shift of positions gives: another base or scaling")


def _visible(found: AttentionDifference) -> Iterator[Sentence]:
    """Which keys are hidden, or seen, in one run only."""
    if found.fewer_keys:
        yield Sentence("B has no keys of positions {places}", places=_spans(found.fewer_keys))
    hidden_a, hidden_b = (np.any(hidden_NHK, axis=1) for hidden_NHK in found.hidden)
    every, rows = found.every_place, found.b.positions_N
    apart_NK = every[None] - rows[:, None]
    only_b, only_a = hidden_b & ~hidden_a, hidden_a & ~hidden_b
    if found.fewer_keys:
        return
    if only_b.any():
        nearest = int(np.abs(apart_NK[only_b]).min())
        if np.array_equal(hidden_b, apart_NK > 0) or np.array_equal(hidden_b, apart_NK < 0):
            yield Sentence("B hides from each row what stands on one side of it")
        elif nearest > 1 and np.array_equal(hidden_b, np.abs(apart_NK) >= nearest):
            yield Sentence("B hides what stands {width} or more positions away", width=nearest)
        else:
            yield Sentence(
                "B hides keys of positions {places} from {rows} rows",
                places=_spans(every[only_b.any(0)].tolist()),
                rows=int(np.any(only_b, axis=1).sum()),
            )
    if only_a.any():
        yield Sentence(
            "B shows keys of positions {places} to {rows} rows, A hides them",
            places=_spans(every[only_a.any(0)].tolist()),
            rows=int(np.any(only_a, axis=1).sum()),
        )
    if not (only_a.any() or only_b.any()):
        yield Sentence("B adds other numbers to the scores than A")


def _sharing(found: AttentionDifference) -> Iterator[Sentence]:
    for name, a, b in (
        (_PARTS["keys"], found.a.key_heads, found.b.key_heads),
        (_PARTS["values"], found.a.value_heads, found.b.value_heads),
    ):
        if a != b:
            a_b = (Code(" ".join(map(str, heads))) for heads in (a, b))
            yield Sentence(
                "heads of {name}: {a} in A, {b} in B",
                name=name,
                **dict(zip("ab", a_b, strict=True)),
            )


def _size(found: AttentionDifference) -> Sentence:
    return Sentence(
        "what attention gives differs by {error:.2g} (floor {floor:.1g}) at {positions} positions, "
        "from equal states",
        error=found.size,
        floor=found.level,
        positions=found.positions.size,
    )


def _experiment(cause: Cause) -> Sentence:
    found = cause.found
    if cause.parts == ("arithmetic",) and not found.computed_a:
        return NOTHING
    if cause.parts == ("arithmetic",):
        return Sentence(
            "computed the attention of layer {layer} again from what was recorded: A's output is "
            "what its parts give, B's is not",
            layer=found.layer,
        )
    if not (found.gives_a(cause.parts) or cause.parts == ("rounding",)):
        return NOTHING
    return Sentence(
        "computed the attention of layer {layer} again from what was recorded: B's with A's "
        "{parts} gives A's output",
        layer=found.layer,
        parts=named(cause.parts),
    )


def _remedy(cause: Cause) -> Sentence:
    if cause.name == "visible-set":
        return Sentence(
            "compare the attention mask with what the decode needs: every position of its own "
            "request, and no padding"
        )
    if cause.name == "position-encoding":
        assert cause.relation is not None
        if cause.relation.kind in ("shift", "rows"):
            return Sentence("pass the absolute positions of the rows to the rotary embedding")
        return Sentence("compare the rotary embedding with the published one")
    if cause.name == "nondeterminism":
        return Sentence(
            "call {call} before the loop, then compare again", call=Code("model.eval()")
        )
    if cause.name == "quantised":
        return Sentence(
            "keep them in the dtype of the run, or measure the price with skipstone audit"
        )
    return Sentence("compare the code of attention with the published one")


def _spans(places: Sequence[int]) -> Code:
    """Places as ``0-3, 7``."""
    spans = list[list[int]]()
    for place in sorted(places):
        if spans and place == spans[-1][1] + 1:
            spans[-1][1] = place
        else:
            spans.append([place, place])
    return Code(", ".join(f"{i}" if i == j else f"{i}-{j}" for i, j in spans))
