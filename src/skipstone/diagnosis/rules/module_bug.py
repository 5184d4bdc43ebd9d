"""19: one module gives wrong states from right inputs."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of


def examine(case: Case) -> Answer:
    """Find where error is born although every input of the layer is B's own, or as A's."""
    wrong = [d for d in case.born if d.kind in ("state", "key", "value", "logits")]
    if not wrong:
        return None
    layers = sorted({d.layer for d in wrong if d.layer is not None})
    first = wrong[0]
    # All that B computed in every layer gives B's scores whatever the cause: that proves no module.
    few = len(layers) <= max(1, case.record_b.header.num_layers // 4)
    added = case.with_only(wrong, "what B computed wrongly") if few else None
    module = {
        "state": "the embedding" if first.layer == 0 else f"layer {first.layer}",
        "key": f"the keys of layer {first.layer}",
        "value": f"the values of layer {first.layer}",
        "logits": "the final norm or the head",
    }[first.kind]
    where = f"{len(layers)} layers" if len(layers) > 1 else f"layer {layers[0]} alone"
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=f"{module} computes something else from the same input",
        where=place(first.step, first.layer, first.position),
        evidence=f"error {first.size:.2g} (floor {first.floor:.1g}) at {first.positions.size} "
        f"positions, born in {where}; the layers before are right",
        experiment=""
        if case.local is None
        else "fed every layer with B's own input"
        + (
            f"; B's output of {where} put into the reference run gives "
            f"{'' if added else 'not '}B's scores"
            if few
            else ""
        ),
        proof=proof_of(removed=case.fault_removed, added=added),
        remedy=_remedy(case, module),
        positions=tuple(first.positions.tolist()),
    )


def _remedy(case: Case, module: str) -> str:
    """What to do next; between two dtypes every module differs, whatever its code."""
    a, b = case.record_a.header.dtype, case.record_b.header.dtype
    if a != b:
        return f"A computes in {a} and B in {b}: record both in one dtype, and diagnose again"
    return f"compare the code of {module} with the published one"


RULE = Rule(19, "module-bug", "true bug in one module", examine)
