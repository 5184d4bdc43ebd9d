"""19: one module gives wrong states from right inputs."""

from __future__ import annotations

from collections.abc import Iterator

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.deviation import Deviation
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of
from skipstone.sentence import NOTHING, Sentence, listed


def examine(case: Case) -> Answer:
    """Find where error is born although every input of the layer is B's own, or as A's."""
    wrong = [d for d in case.tensors.born if d.kind in ("state", "key", "value", "logits")]
    if not wrong:
        return None
    layers = sorted({d.layer for d in wrong if d.layer is not None})
    first = wrong[0]
    # All that B computed in every layer gives B's scores whatever the cause: that proves no module.
    few = len(layers) <= max(1, case.record_b.header.num_layers // 4)
    added = case.proof.with_only(wrong, "what B computed wrongly") if few else None
    module = _module(first)
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
        proof=proof_of(removed=case.proof.fault_removed, added=added),
        remedy=_remedy(case, module),
        positions=tuple(first.positions.tolist()),
    )


def _module(first: Deviation) -> Sentence:
    """Which module gave a state, in words."""
    template = {
        "state": "the embedding" if first.layer == 0 else "layer {layer}",
        "key": "the keys of layer {layer}",
        "value": "the values of layer {layer}",
        "logits": "the final norm or the head",
    }[first.kind]
    return Sentence(template, layer=first.layer)


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
