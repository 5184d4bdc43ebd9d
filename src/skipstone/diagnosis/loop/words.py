"""Commit rules, and what tells two of them apart, in words."""

from __future__ import annotations

from math import inf

from skipstone.diagnosis.loop.difference import (
    ConfidencePart,
    DrawPart,
    RegionPart,
    RuleDifference,
    RulePart,
    SelectionPart,
)
from skipstone.diagnosis.loop.fit import Fit
from skipstone.diagnosis.loop.rule import (
    THRESHOLDS,
    Confidence,
    Draw,
    LoopRule,
    Number,
    ValueRange,
)
from skipstone.diagnosis.loop.stated import Stated
from skipstone.sentence import NOTHING, Code, Sentence, listed


def follows(rule: LoopRule, stated: Stated) -> Sentence:
    """A whole rule, its parts in the order in which a step uses them."""
    order = Sentence(_KINDS[rule.confidence.kind])
    by_scores = rule.confidence.kind in ("probability", "margin", "entropy")
    return listed(
        [
            number(rule, stated),
            Sentence("{order} in {dtype}", order=order, dtype=Code(rule.confidence.dtype))
            if by_scores
            else order,
            NOTHING
            if rule.confidence.axis == "vocabulary"
            else Sentence("softmax over {axis}", axis=Sentence(_AXES[rule.confidence.axis])),
            region(rule),
            *_drawn(rule.draw, stated),
            *_special(rule),
        ]
    )


def number(rule: LoopRule, stated: Stated) -> Sentence:
    """How many a step commits, or how sure they must be."""
    selection = rule.selection
    value = selection.value
    said = stated.number(rule)
    text = Code(f"{said:g}" if said in value else _spelled(value, selection.number))
    at_least = selection.number == "each step" and value.high == inf
    sentence = Sentence(
        "at least {value} a step" if at_least else _NUMBERS[selection.number], value=text
    )
    if selection.of_canvas:
        return Sentence("{number}, of the masks of the whole canvas", number=sentence)
    if selection.forced:
        return sentence
    return Sentence("{number}, and nothing where none reaches it", number=sentence)


def region(rule: LoopRule) -> Sentence:
    """Which masks may be committed."""
    reach = Sentence(_REACHES[rule.region.reach])
    if rule.region.block_length is None:
        return reach
    return Sentence("{region}, blocks of {length}", region=reach, length=rule.region.block_length)


def differs(found: RuleDifference, part: RulePart) -> Sentence:
    """What B does otherwise than A, in one part of the rule."""
    if part == "tokens":
        return Sentence(
            "B writes tokens that are not the best of its logits, and draws no numbers of torch's"
        )
    if part == "order":
        return Sentence("B commits as many as A, and passes over surer masks of the same block")
    if found.fit_b is None:
        return Sentence(
            "B commits outside {region}, where A commits", region=region(found.fit_a.rule)
        )
    a, b = found.fit_a.rule, found.fit_b.rule
    match part:
        case "offset" | "without" | "raised" | "late" | "ids" | "penalty" | "guidance" | "drawn":
            return _draw_differs(found, part, a.draw, b.draw)
        case "axis" | "kind" | "dtype" | "last":
            return _confidence_differs(part, a.confidence, b.confidence)
        case "region" | "block length":
            return _region_differs(found, part, a, b)
        case "number" | "value" | "of canvas" | "forced" | "nothing" | "opening":
            return _selection_differs(found, part, a, b)


def explained(fit: Fit, rival: Fit | None) -> Sentence:
    """How well a rule explains its run."""
    return Sentence(
        "explains {count} of {steps} steps; the next best explains {rival}",
        count=fit.count,
        steps=fit.explains.size,
        rival=0 if rival is None else rival.count,
    )


def _draw_differs(found: RuleDifference, part: DrawPart, a: Draw, b: Draw) -> Sentence:
    """How the tokens and their scores come about."""
    match part:
        case "offset":
            return Sentence(
                "B scores a position by {b}, A by {a}",
                a=_row(a, found.a.stated),
                b=_row(b, found.b.stated),
            )
        case "without":
            return _left_out(a, b, found.b.evidence.record.header.mask_id)
        case "raised":
            return _raised(a, b)
        case "late":
            return _late(a, b)
        case "ids":
            return _ids(a, b)
        case "penalty":
            return _penalty(a, b)
        case "guidance":
            return _guidance(a.guidance, b.guidance)
        case "drawn":
            return Sentence(
                "B takes the best token, A draws it at random"
                if b.greedy
                else "B draws tokens at random, A takes the best"
            )


def _confidence_differs(part: ConfidencePart, a: Confidence, b: Confidence) -> Sentence:
    """By what masks are compared."""
    match part:
        case "axis":
            return Sentence(
                "B takes the softmax over {b}, A over {a}",
                a=Sentence(_AXES[a.axis]),
                b=Sentence(_AXES[b.axis]),
            )
        case "kind":
            return Sentence(
                "B commits {b}, A {a}",
                a=Sentence(_KINDS[a.kind]),
                b=Sentence(_KINDS[b.kind]),
            )
        case "dtype":
            return Sentence("the confidence is computed in {dtype}", dtype=Code(b.dtype))
        case "last":
            ids = b.last or a.last
            return Sentence(
                "B commits token {token} last"
                if b.last
                else "A commits token {token} last, B does not",
                token=ids[0],
            )


def _region_differs(found: RuleDifference, part: RegionPart, a: LoopRule, b: LoopRule) -> Sentence:
    """Which masks may be committed."""
    if part == "block length" and found.block_a != found.block_b:
        return Sentence(
            "B's block is positions {first} to {last}, A's {first_a} to {last_a}",
            first=found.block_b[0],
            last=found.block_b[1],
            first_a=found.block_a[0],
            last_a=found.block_a[1],
        )
    if a.region.reach == b.region.reach:
        return Sentence("B commits in several blocks at once, A within {a}", a=region(a))
    return Sentence("B commits within {b}, A within {a}", a=region(a), b=region(b))


def _selection_differs(
    found: RuleDifference, part: SelectionPart, a: LoopRule, b: LoopRule
) -> Sentence:
    """How many are committed, and what is done where none may be."""
    match part:
        case "number" | "value":
            return Sentence(
                "B commits by {b}, A by {a}",
                a=number(a, found.a.stated),
                b=number(b, found.b.stated),
            )
        case "of canvas":
            return Sentence(
                "B shares out the masks of the whole canvas among the steps of a block, A those "
                "of the block"
                if b.selection.of_canvas
                else "A shares out the masks of the whole canvas among the steps of a block, B "
                "those of the block"
            )
        case "forced":
            return Sentence(
                "B always commits the best, A nothing where none reaches the threshold"
                if b.selection.forced
                else "B commits nothing where none reaches the threshold, A the best"
            )
        case "nothing":
            done = [bool(decision.committed.any()) for decision in found.b.evidence.decisions]
            return Sentence(
                "B commits nothing in {empty} of {steps} steps; A's rule commits here",
                empty=done.count(False),
                steps=len(done),
            )
        case "opening":
            return Sentence(
                "B commits the first position of a block in its first step, A the best"
                if b.selection.opening
                else "A commits the first position of a block in its first step, B the best"
            )


def _late(a: Draw, b: Draw) -> Sentence:
    if a.late and b.late:
        return Sentence("A and B decide by the logits of other steps")
    return Sentence(
        "B decides by the logits of the step before, A by its own"
        if b.late
        else "A decides by the logits of the step before, B by its own"
    )


def _ids(a: Draw, b: Draw) -> Sentence:
    if a.ids is not None and b.ids is not None:
        return Sentence("A and B take tokens of other ranges of ids")
    first, end = b.ids or a.ids or (0, 0)
    who, other = ("B", "A") if b.ids is not None else ("A", "B")
    if first:
        return Sentence(
            "{who} never takes a token below {first}, {other} does",
            who=who,
            other=other,
            first=first,
        )
    return Sentence(
        "{who} never takes a token from {end} on, {other} does", who=who, other=other, end=end
    )


def _penalty(a: Draw, b: Draw) -> Sentence:
    if b.penalty == 1.0:
        return Sentence(
            "A makes tokens that stand on the canvas less likely, by a penalty of about "
            "{penalty:.3g}, B does not",
            penalty=a.penalty,
        )
    return Sentence(
        "B makes tokens that stand on the canvas less likely, by a penalty of about {penalty:.3g}"
        if a.penalty == 1.0
        else "A and B make tokens that stand on the canvas less likely, B by {penalty:.3g}",
        penalty=b.penalty,
    )


def _guidance(a: float, b: float) -> Sentence:
    """Scales as loops state them: one less than the weight of what the halves are apart."""
    if abs(a + b - 1.0) < _ALIKE:
        return Sentence(
            "B takes the half with the hidden prompt for the other one (guidance scale {scale:g})",
            scale=a - 1.0,
        )
    return Sentence("B guides with scale {b:g}, A with {a:g}", a=a - 1.0, b=b - 1.0)


def _row(draw: Draw, stated: Stated) -> Sentence:
    """The row that scores a position."""
    own = Sentence(_ROWS[stated.score_offset])
    row = Sentence(_ROWS[draw.offset + stated.score_offset])
    if draw.calls == "all":
        return row
    in_whole, in_part = (row, own) if draw.calls == "whole" else (own, row)
    return Sentence(
        "{in_whole} in calls of the whole canvas, and by {in_part} in those of a part of it",
        in_whole=in_whole,
        in_part=in_part,
    )


def _drawn(draw: Draw, stated: Stated) -> list[Sentence]:
    return [
        NOTHING
        if draw.offset == 0 == stated.score_offset
        else Sentence("scored by {row}", row=_row(draw, stated)),
        NOTHING
        if draw.raised < 0
        else Sentence("the logit of token {token} raised by {by:g}", token=draw.raised, by=draw.by),
        NOTHING
        if draw.guidance == 1.0
        else Sentence("guidance of scale {scale:g}", scale=draw.guidance - 1.0),
        Sentence("by the logits of the step before") if draw.late else NOTHING,
        NOTHING
        if draw.ids is None
        else Sentence("ids {first} to {last} alone", first=draw.ids[0], last=draw.ids[1] - 1),
        NOTHING
        if draw.penalty == 1.0
        else Sentence("a penalty of {penalty:.3g} on the ids of the canvas", penalty=draw.penalty),
        NOTHING if draw.greedy else Sentence("tokens drawn at random"),
    ]


def _special(rule: LoopRule) -> list[Sentence]:
    return [
        Sentence("token {token} last", token=rule.confidence.last[0])
        if rule.confidence.last
        else NOTHING,
        Sentence("the first position of a block in its first step")
        if rule.selection.opening
        else NOTHING,
    ]


def _left_out(a: Draw, b: Draw, mask_id: int) -> Sentence:
    only_b = [token for token in b.without if token not in a.without]
    ids = only_b or [token for token in a.without if token not in b.without]
    if not ids:
        return Sentence(
            "B's softmax has the tokens that are never taken, A's has not"
            if set(b.still_summed) - set(a.still_summed)
            else "A's softmax has the tokens that are never taken, B's has not"
        )
    ids = [token for token in ids if token != mask_id] or ids
    return Sentence(
        "B never takes token {tokens}, A does"
        if only_b
        else "A never takes token {tokens}, B does",
        tokens=Code(", ".join(map(str, ids))),
    )


def _raised(a: Draw, b: Draw) -> Sentence:
    if b.raised < 0:
        return Sentence("A raises the logit of token {token}, B does not", token=a.raised)
    return Sentence("B raises the logit of token {token} by about {by:g}", token=b.raised, by=b.by)


def _spelled(value: ValueRange, number: Number) -> str:
    if value.low == value.high:
        return f"{value.low:.6g}"
    if number in THRESHOLDS or number == "factor":
        high = "" if value.high == inf else f"{value.high:.4g}"
        return f"{value.low:.4g}..{high}"
    return f"{value.low:g}"


# Scales closer than this are one.
_ALIKE = 1e-6

_KINDS = {
    "probability": "by probability",
    "margin": "by the margin to the second token",
    "entropy": "by entropy",
    "least probable": "the least probable first",
    "left to right": "from left to right",
    "right to left": "from right to left",
    "any": "in an order that no score tried here gives",
}
_AXES = {
    "vocabulary": "the vocabulary",
    "rows": "the positions",
    "block": "the positions of the block",
    "from the block on": "the positions from the block on",
    "masks": "the masked positions",
}
_REACHES = {
    "block": "the block",
    "to the end of the block": "the block and everything left of it",
    "from the block on": "the block and everything right of it",
    "canvas": "the whole canvas",
}
_ROWS = {
    0: "its own row",
    1: "the row after it",
    -1: "the row before it",
    -2: "the second row before it",
    -3: "the third row before it",
}
_NUMBERS = {
    "each step": "{value} a step",
    "remainder first": "a schedule of {value} steps, remainder first",
    "remainder last": "a schedule of {value} steps, remainder last",
    "share of the rest": "a share of the masks that are left, over {value} steps",
    "rounded share": "a schedule of {value} steps, shares rounded",
    "timesteps": "a schedule of {value} steps by time",
    "cosine": "a cosine schedule of {value} steps",
    "at least": "threshold >= {value}",
    "above": "threshold > {value}",
    "factor": "factor {value}",
    "all": "all masks at once",
    "some": "numbers that no schedule or threshold tried here gives",
}
