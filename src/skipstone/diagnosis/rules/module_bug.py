"""19: one module gives wrong states from right inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.deviation import Deviation
from skipstone.diagnosis.experiment import Choice, Follow, Turn
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, of_attention, place, proof_of_patch
from skipstone.diagnosis.rules.position_encoding import other_turn
from skipstone.diagnosis.rules.visible_set import hidden_keys
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
    """Find where error is born although every input of the layer is B's own, or as A's."""
    cause, found = of_attention(case, RULE.name, RULE.number), _born(case)
    if cause is None or found is None:
        return cause or found
    # Which operation it is shows in what attention was given; that it is the cause, in the patch.
    return replace(found, what=cause.what, evidence=listed([cause.evidence, found.evidence]))


def _born(case: Case) -> Finding | None:
    wrong = [d for d in case.tensors.born if d.kind in ("state", "key", "value", "logits")]
    if not wrong or _explained(case) or not _certain(case, wrong):
        return None
    layers = sorted({d.layer for d in wrong if d.layer is not None})
    first = wrong[0]
    # All that B computed in every layer gives B's scores whatever the cause: that proves no module.
    few = len(layers) <= max(1, case.record_b.header.num_layers // 4)
    states_alone = not any(d.kind in ("key", "value") for d in wrong)
    if not few and states_alone and case.tensors.local is not None:
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
    if cause is not None and cause.name != RULE.name:
        return True
    if case.held is not None or hidden_keys(case) is not None:
        return True
    return other_turn(case) is not None


def _certain(case: Case, wrong: Sequence[Deviation]) -> bool:
    """Whether only a module can give these; without a model, many things look like one.

    A wrong rotation or visible set shows from the first layer on, and what is read from a cache
    cannot be told from what is computed.
    """
    if case.tensors.local is not None:
        return True
    step, first = case.tensors.step, wrong[0]
    if _after_attention(case, first):
        return True
    if step is None or step.rows.size < case.record_b.length:
        return False
    return first.layer != 1 or first.kind == "value"


def _after_attention(case: Case, first: Deviation) -> bool:
    """Whether a state is wrong although the attention of its layer gave the same in both runs."""
    known = first.kind == "state" and bool(first.layer) and case.tensors.local is None
    return known and case.attention.right(first.step, first.layer or 0) is True


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
    if _after_attention(case, first):
        return Sentence("the output projection or the MLP of layer {layer}", layer=first.layer)
    return Sentence("attention, its output or the MLP of layer {layer}", layer=first.layer)


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
