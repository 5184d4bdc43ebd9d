"""What is said where no cause can be named: how far things are right, and where to look next."""

from __future__ import annotations

from collections.abc import Iterator

from skipstone.diagnosis.attention.difference import AttentionDifference
from skipstone.diagnosis.attention.words import named
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.loop import evidence_of
from skipstone.sentence import Code, Sentence, listed


def known(case: Case) -> Sentence:
    """The first wrong value, what became wrong with it, and what could not be compared."""
    return listed(
        [
            *_stopped(case),
            *_canvases(case),
            *_first(case),
            *_of_the_loops(case),
            *_born(case),
            *_of_attention(case),
        ]
    )


def to_look_at(case: Case) -> Iterator[Sentence]:
    """Which tensors of which layer to compare in both runs, where that much is known."""
    begins, step = case.attention.begins, case.tensors.step
    if begins is not None and begins.differ:
        yield Sentence(
            "print the {parts} that attention of layer {layer} is given in forward {forward} of "
            "both runs, at position {position}",
            parts=named(begins.differ),
            layer=begins.layer,
            forward=begins.step.forward,
            position=begins.positions[0] if begins.positions.size else begins.b.positions_N[0],
        )
        return
    born = case.tensors.born
    if (
        born
        and born[0].layer
        and step is not None
        and not case.attention.heard(step, born[0].layer)
    ):
        yield Sentence(
            "print queries, keys, values and mask of layer {layer} in forward {forward} of both "
            "runs, at position {position}",
            layer=born[0].layer,
            forward=step.forward,
            position=born[0].position,
        )


def _stopped(case: Case) -> Iterator[Sentence]:
    """That a run was interrupted, or raised."""
    first = case.divergence.first
    for name, record in (("A", case.record_a), ("B", case.record_b)):
        if record.outcome is None and first is not None and first.kind == "stop":
            if any(e.kind == "end_not_seen" for e in record.events):
                yield Sentence(
                    "what the last of {steps} steps of {side} committed was not seen",
                    side=name,
                    steps=len(record.steps),
                )
                continue
            yield Sentence(
                "{side} did not end by itself: it was stopped after {steps} steps",
                side=name,
                steps=len(record.steps),
            )


def _canvases(case: Case) -> Iterator[Sentence]:
    """That one canvas is longer, where the first step that differs has seen it."""
    a, b = case.record_a.header.gen_length, case.record_b.header.gen_length
    forward, first = case.divergence.forward, case.expected.first
    if a == b or forward is None or first is not None:
        return
    step = case.step_b(forward)
    if step is not None and case.divergence.same_step(step) is None:
        yield Sentence("the canvases have {a} and {b} new positions", a=a, b=b)


def _of_the_loops(case: Case) -> Iterator[Sentence]:
    """That B follows another rule than A, where no more is known of it."""
    loops = case.loops.compared
    if loops is not None:
        yield evidence_of(loops)
        yield Sentence("B's scores decided by A's rule: A's commits")


def _first(case: Case) -> Iterator[Sentence]:
    first = case.expected.first
    if first is not None:
        yield Sentence(
            "B first departs at block {block}, step {step}: {kind}, at {positions} positions",
            block=first.step.block,
            step=first.step.step,
            kind=Sentence(first.kind),
            positions=first.positions.size,
        )


def _born(case: Case) -> Iterator[Sentence]:
    born = case.tensors.born
    if born:
        yield Sentence(
            "the first wrong tensor is a {tensor} of layer {layer}, at {positions} positions from "
            "{position} on",
            tensor=Sentence(born[0].kind),
            layer=born[0].layer,
            positions=born[0].positions.size,
            position=born[0].position,
        )
    elif case.tensors.recorded is not None and case.tensors.expected is not None:
        yield Sentence("states, keys and values of this step are right")
    else:
        yield Sentence("tensors of this step were not recorded on both sides")


def _of_attention(case: Case) -> Iterator[Sentence]:
    """What attention's arguments tell, or that they cannot be asked."""
    begins, born, step = case.attention.begins, case.tensors.born, case.tensors.step
    if begins is not None:
        yield from _given(begins)
        return
    if not born or not born[0].layer or step is None:
        return
    if not case.attention.heard(step, born[0].layer):
        yield Sentence(
            "what attention of layer {layer} is given was not recorded on both sides: attach hears "
            "{function}, called once in a layer",
            layer=born[0].layer,
            function=Code("torch's scaled_dot_product_attention"),
        )
    if case.tensors.local is None:
        yield Sentence(
            "without a model a rotation, a visible set and a module cannot be told apart"
        )


def _given(begins: AttentionDifference) -> Iterator[Sentence]:
    """Which parts of attention are A's, in the first layer that gives something else."""
    if not begins.differ:
        return
    yield Sentence(
        "from equal states, attention of layer {layer} is first given other {parts} in forward "
        "{forward}",
        parts=named(begins.differ),
        layer=begins.layer,
        forward=begins.step.forward,
    )
    if begins.parts:
        yield Sentence(
            "with A's {parts} it gives A's output; in no way that was tried do they follow from "
            "A's",
            parts=named(begins.parts),
        )
