"""27: weights, K/V or states were cast or quantised."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.deviation import Deviation, DeviationKind
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.grids import grid
from skipstone.diagnosis.rule import Answer, Rule, of_attention, place, proof_of_patch, tried
from skipstone.record import Tap, TensorKey
from skipstone.sentence import Sentence


def examine(case: Case) -> Answer:
    """Wrong tensors whose values are all of a coarser format than the run's dtype."""
    if case.attention.cause is not None:
        return of_attention(case, RULE.name, RULE.number)
    for deviation in (*case.tensors.born, *case.tensors.cached_wrong):
        if deviation.layer is None or case.tensors.recorded is None:
            continue
        # Rows that belong to another position have its grid.
        if deviation.kind in ("key", "value") and case.held is not None:
            continue
        trace, sample = case.tensors.recorded
        key = TensorKey(case.tensors.focus, Tap(deviation.kind), deviation.layer)
        rows = trace.tensor(sample, key)
        if rows is None:
            continue
        name = grid(rows.at(deviation.positions), rows.dtype)
        if name is None or _right_too(case, key, name):
            continue
        same = [
            d for d in (*case.tensors.born, *case.tensors.cached_wrong) if d.kind == deviation.kind
        ]
        added = _brings_it(case, same, name)
        return Finding(
            rule=RULE.name,
            number=RULE.number,
            what=Sentence(
                "{tensors} are rounded to {format}", tensors=_plural(deviation.kind), format=name
            ),
            where=place(deviation.step, deviation.layer, deviation.position),
            evidence=Sentence(
                "all values of {layers} layers lie on the {format} grid although the run is in "
                "{dtype}; error {error:.2g} (floor {floor:.1g})",
                layers=len({d.layer for d in same}),
                format=name,
                dtype=rows.dtype,
                error=deviation.size,
                floor=deviation.floor,
            ),
            experiment=tried(
                added,
                Sentence(
                    "put B's rounded {tensors} into the reference run: B's scores",
                    tensors=_plural(deviation.kind),
                ),
                Sentence(
                    "put B's rounded {tensors} into the reference run: not B's scores",
                    tensors=_plural(deviation.kind),
                ),
            ),
            proof=proof_of_patch(case, added),
            remedy=Sentence(
                "keep them in the dtype of the run, or measure the price with skipstone audit"
            ),
            positions=tuple(deviation.positions.tolist()),
        )
    return None


def _brings_it(case: Case, same: list[Deviation], name: str) -> bool | None:
    """Whether B's rounded tensors give B's scores: all of them, or only those from the cache.

    What a step stores may be rounded after its own attention has read it.
    """
    patch = f"B's {name} values"
    if same[0].kind not in ("key", "value"):
        return case.proof.with_only(same, patch)
    stored = [d for d in case.tensors.cached_wrong if d.kind in ("key", "value")]
    new = [d for d in case.tensors.born if d.kind in ("key", "value")]
    every = case.proof.with_only([*new, *stored], patch)
    return every or case.proof.with_only(stored, f"{patch} of earlier forwards") or every


def _plural(kind: DeviationKind) -> Sentence:
    """Tensors of a kind, in words."""
    return Sentence("logits" if kind == "logits" else f"{kind}s")


def _right_too(case: Case, key: TensorKey, name: str) -> bool:
    """Whether the right values have the same grid, as an embedding stored in bfloat16 has."""
    if case.tensors.expected is None:
        return False
    right = case.tensors.expected.tensor(0, key)
    return right is not None and grid(right.values.astype(np.float64), right.dtype) == name


RULE = Rule(27, "quantised", "quantised weights, K/V, or a cast", examine)
