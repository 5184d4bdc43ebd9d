"""30: a run is not the same twice."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Side
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import Answer, Rule, place

_SELF_RUNS = 3


def examine(case: Case) -> Answer:
    """Run each side again a few times; no cause is claimed where they differ by themselves."""
    if case.comparison.identical:
        return None
    sides: tuple[Side, ...] = ("a", "b")
    for side in sides:
        firsts = case.self_runs(side)
        flips = [f for f in firsts if f is not None]
        if not flips:
            continue
        first = min(flips, key=lambda f: (f.block, f.step))
        record = case.record_a if side == "a" else case.record_b
        step = next(
            (s for s in record.steps if (s.block, s.step) == (first.block, first.step)), None
        )
        return Finding(
            rule=RULE.name,
            number=RULE.number,
            what=f"{side.upper()} is not the same twice",
            where=place(step, None, first.position),
            evidence=f"{len(flips)} of {len(firsts)} runs of {side.upper()} with the same settings "
            f"decide otherwise than its trace",
            experiment=f"ran {side.upper()} again {len(firsts)} times",
            proof=Proof.SUFFICIENT,
            remedy="fix seeds, set torch.use_deterministic_algorithms(True), then compare again",
        )
    return None


RULE = Rule(30, "nondeterminism", "a run differs from itself", examine)
