"""27: weights, K/V or states were cast or quantised."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.fit import grid
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of
from skipstone.record import Tap, TensorKey


def examine(case: Case) -> Answer:
    """Wrong tensors that lie on the grid of a coarser format than the run's dtype."""
    for deviation in (*case.born, *case.cached_wrong):
        if deviation.layer is None or case.tensors_b is None:
            continue
        trace, sample = case.tensors_b
        key = TensorKey(case.focus, Tap(deviation.kind), deviation.layer)
        rows = trace.tensor(sample, key)
        if rows is None:
            continue
        name = grid(rows.at(deviation.positions), rows.dtype)
        if name is None or _right_too(case, key, name):
            continue
        same = [d for d in (*case.born, *case.cached_wrong) if d.kind == deviation.kind]
        both = [d for d in (*case.born, *case.cached_wrong) if d.kind in ("key", "value")]
        added = case.with_only(both if deviation.kind != "state" else same, f"B's {name} values")
        return Finding(
            rule=RULE.name,
            number=RULE.number,
            what=f"{deviation.kind}s are rounded to {name}",
            where=place(deviation.step, deviation.layer, deviation.position),
            evidence=f"all values of {len(same)} layers lie on the {name} grid although the run is "
            f"in {rows.dtype}; error {deviation.size:.2g} (floor {deviation.floor:.1g})",
            experiment=f"put B's rounded {deviation.kind}s into the reference run: "
            f"{'' if added else 'not '}B's scores",
            proof=proof_of(removed=case.fault_removed, added=added),
            remedy="keep them in the dtype of the run, or measure the price: skipstone audit",
            positions=tuple(deviation.positions.tolist()),
        )
    return None


def _right_too(case: Case, key: TensorKey, name: str) -> bool:
    """Whether the right values lie on the same grid, as an embedding stored in bfloat16 does."""
    if case.expected_tensors is None:
        return False
    right = case.expected_tensors.tensor(0, key)
    return right is not None and grid(right.values.astype(np.float64), right.dtype) == name


RULE = Rule(27, "quantised", "quantised weights, K/V, or a cast", examine)
