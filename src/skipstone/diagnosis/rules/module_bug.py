"""19: one module gives wrong states from right inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from skipstone.diagnosis.attention.difference import AttentionDifference
from skipstone.diagnosis.attention.stage import Stage, computed_wrong
from skipstone.diagnosis.attention.words import named
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.deviation import Deviation
from skipstone.diagnosis.experiment import Choice, Follow, Turn
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import Answer, Rule, of_attention, place, proof_of_patch
from skipstone.diagnosis.rules.position_encoding import other_turn
from skipstone.diagnosis.rules.visible_set import hidden_keys
from skipstone.record import StepRecord, Tap, TensorKey
from skipstone.sentence import NOTHING, Sentence, listed

_ATTENDING = {
    Turn(width_power=-0.5): Sentence(
        "the scores of attention are divided by the width of a head, not by its root"
    ),
    Turn(width_power=0.5): Sentence(
        "the scores of attention are not divided by the root of the width of a head"
    ),
}
"""What is tried where most layers are wrong."""


def examine(case: Case) -> Answer:
    """Find the layer that makes an error although its inputs are B's own, or equal A's."""
    cause, stage = of_attention(case, RULE.name, RULE.number), _of_a_stage(case)
    found, told = _born(case), cause or stage
    if told is None or found is None or told.where.layer != found.where.layer:
        return told or found
    # Which operation it is shows in what attention was given; that it is the cause, in the patch.
    evidence = listed([told.evidence, found.evidence]) if told is cause else told.evidence
    return replace(found, what=told.what, evidence=evidence, remedy=told.remedy, where=told.where)


def _of_a_stage(case: Case) -> Finding | None:
    """The part of a layer to blame, where both ends of its attention were recorded."""
    begins, stage = case.attention.begins, case.attention.stage
    if begins is None or stage is None or case.attention.cause is not None:
        return None
    if case.held is not None:
        return None
    whole = _passes_through(case, begins.step, begins.layer)
    module = _idle(begins.layer) if whole else _of_stage(begins, stage)
    positions, size = case.attention.state_errors(begins.step, begins.layer)
    if not positions.size:
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("{module} computes something else from the same input", module=module),
        where=place(begins.step, begins.layer, int(positions[0])),
        evidence=Sentence(
            "{seen}; states after the layer differ by {error:.2g} (floor {floor:.1g}) at "
            "{positions} positions, states before it are equal",
            seen=_seen(begins, stage),
            error=size,
            floor=begins.level,
            positions=positions.size,
        ),
        experiment=NOTHING,
        proof=Proof.CONSISTENT,
        remedy=_remedy(case, module),
        positions=tuple(positions.tolist()),
    )


def _idle(layer: int) -> Sentence:
    return Sentence("layer {layer}, which hands on the states that it is given,", layer=layer)


def _of_stage(begins: AttentionDifference, stage: Stage) -> Sentence:
    """What a part of a layer has, in words."""
    if stage == "after":
        return Sentence(
            "what follows attention in layer {layer} (its output projection, a norm or the MLP)",
            layer=begins.layer,
        )
    if stage == "attention":
        return Sentence("the arithmetic of attention in layer {layer}", layer=begins.layer)
    wrong = computed_wrong(begins)
    if len(wrong) == 1:
        return Sentence(
            "the projection to {rows} of layer {layer}", rows=named(wrong), layer=begins.layer
        )
    return Sentence(
        "the norm before attention, or the projection to {rows}, of layer {layer}",
        rows=named(wrong),
        layer=begins.layer,
    )


def _seen(begins: AttentionDifference, stage: Stage) -> Sentence:
    """What was held against A's within the layer."""
    if stage == "after":
        return Sentence("what attention is given and what it gives is A's")
    if stage == "attention":
        return Sentence("queries, keys, values, mask and scale of attention are A's")
    return Sentence(
        "{rows} differ as they enter attention, in rows of this step",
        rows=named(computed_wrong(begins)),
    )


def _born(case: Case) -> Finding | None:
    wrong = [d for d in case.tensors.born if d.kind in ("state", "key", "value", "logits")]
    if not wrong or _explained(case) or not _certain(case, wrong):
        return None
    layers = sorted({d.layer for d in wrong if d.layer is not None})
    first = wrong[0]
    # All that B computed in every layer gives B's scores whatever the cause: that proves no module.
    few = len(layers) <= max(1, case.record_b.header.num_layers // 4)
    states_alone = not any(d.kind in ("key", "value") for d in wrong)
    told = case.attention.stage is not None
    if not (few or told) and states_alone and case.tensors.local is not None:
        return _otherwise_attending(case, wrong[0], len(layers))
    added = case.proof.with_only(wrong, "what B computed wrongly") if few else None
    module = _module(case, wrong)
    where = (
        Sentence("{layers} layers", layers=len(layers))
        if len(layers) > 1
        else Sentence("layer {layer} alone", layer=layers[0])
    )
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("{module} computes something else from the same input", module=module),
        where=place(first.step, first.layer, first.position),
        evidence=Sentence(
            "error {error:.2g} (floor {floor:.1g}) at {positions} positions, born in {where}; the "
            "layers before are right",
            error=first.size,
            floor=first.floor,
            positions=first.positions.size,
            where=where,
        ),
        experiment=NOTHING if case.tensors.local is None else listed(_tried(where, added, few=few)),
        proof=proof_of_patch(case, added),
        remedy=_remedy(case, module),
        positions=tuple(first.positions.tolist()),
    )


def _otherwise_attending(case: Case, first: Deviation, layers: int) -> Finding | None:
    """States are wrong in most layers: attention that does something else, or unknown.

    A mask, a rotation and every other part of attention look alike here. A layer's own output, put
    in, scores as B whatever made it; so only what was tried and scores as B is claimed.
    """
    window = (case.tensors.focus, case.tensors.focus)
    led: frozenset[Choice] = frozenset(("rows", "skip"))
    tried = (
        (how, Follow("b", case.runs.settings, window, led=led, turn=turn, tensors=False))
        for turn, how in _ATTENDING.items()
    )
    how = next((h for h, asked in tried if case.proof.reproduces(case.ask(asked))), None)
    if how is None:
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("{how}, in every layer", how=how),
        where=place(first.step, first.layer, first.position),
        evidence=Sentence(
            "error {error:.2g} (floor {floor:.1g}) at {positions} positions, born in {layers} "
            "layers, from right inputs",
            error=first.size,
            floor=first.floor,
            positions=first.positions.size,
            layers=layers,
        ),
        experiment=Sentence("did the same in the reference run: B's scores"),
        proof=proof_of_patch(case, True),
        remedy=Sentence("compare the code of attention with the published one"),
        positions=tuple(first.positions.tolist()),
    )


def _explained(case: Case) -> bool:
    """Whether other rows, another rotation or another visible set explain what is wrong."""
    cause = case.attention.cause
    if cause is not None:
        return cause.name != RULE.name
    if case.held is None and case.attention.stage is not None:
        return False
    if case.held is not None or hidden_keys(case) is not None:
        return True
    return other_turn(case) is not None


def _certain(case: Case, wrong: Sequence[Deviation]) -> bool:
    """Whether only a module can give these; without a model, many things look like one.

    A wrong rotation or visible set shows from the first layer on, and what is read from a cache
    cannot be distinguished by what is computed.
    """
    if case.attention.stage is not None:
        return True
    step, first = case.tensors.step, wrong[0]
    inside = first.kind == "state" and bool(first.layer)
    if step is not None and inside and _passes_through(case, step, first.layer or 0):
        return True
    if inside and any(forward < case.tensors.focus for forward in case.runs.writes):
        # It may have read wrong keys and values that a forward wrote which A does not make.
        return False
    if case.tensors.local is not None:
        return not inside or not _may_be_masked(case, step, first.layer or 0)
    if step is None or step.rows.size < case.record_b.length or inside:
        return False
    return first.layer != 1 or first.kind == "value"


def _may_be_masked(case: Case, step: StepRecord | None, layer: int) -> bool:
    """Whether a mask of this layer may give what a module of it gives: no attention says no.

    A run of ours hides no key in one layer alone.
    """
    if not case.foreign:
        return False
    other = case.record_a.header.source != "skipstone"
    return other or (step is not None and case.attention.hides(step, layer))


def _passes_through(case: Case, step: StepRecord, layer: int) -> bool:
    """Whether a layer of B hands on its states as they are, which no mask or rotation does."""
    trace, sample = case.runs.b, case.runs.sample_b
    before, after = (
        trace.tensor(sample, TensorKey(step.forward, Tap.STATE, n)) for n in (layer - 1, layer)
    )
    if before is None or after is None or not np.array_equal(before.positions, after.positions):
        return False
    return np.array_equal(before.values, after.values)


def _module(case: Case, wrong: Sequence[Deviation]) -> Sentence:
    """Which operation gave a state, in words: as far as what was recorded inside a layer tells."""
    first = wrong[0]
    if first.kind == "logits":
        return Sentence("the final norm or the head")
    if first.layer == 0:
        return Sentence("the embedding")
    kinds = {d.kind for d in wrong if d.layer == first.layer}
    if {"key", "value"} <= kinds:
        return Sentence(
            "the norm before attention, or the projection to keys and values, of layer {layer}",
            layer=first.layer,
        )
    if "value" in kinds:
        return Sentence("the projection to values of layer {layer}", layer=first.layer)
    if "key" in kinds:
        return Sentence("the projection to keys of layer {layer}", layer=first.layer)
    step, layer = case.tensors.step, first.layer or 0
    if step is not None and _passes_through(case, step, layer):
        return _idle(layer)
    return Sentence("attention, its output or the MLP of layer {layer}", layer=layer)


def _tried(where: Sentence, added: bool | None, *, few: bool) -> Iterator[Sentence]:
    yield Sentence("fed every layer with B's own input")
    if few:
        template = (
            "B's output of {where} put into the reference run gives B's scores"
            if added
            else "B's output of {where} put into the reference run gives not B's scores"
        )
        yield Sentence(template, where=where)


def _remedy(case: Case, module: Sentence) -> Sentence:
    """What to do next; between two dtypes every module differs, whatever its code."""
    a, b = case.record_a.header.dtype, case.record_b.header.dtype
    if a != b:
        return Sentence(
            "A computes in {a} and B in {b}: record both in one dtype, and diagnose again", a=a, b=b
        )
    return Sentence("compare the code of {module} with the published one", module=module)


RULE = Rule(19, "module-bug", "true bug in one module", examine)
