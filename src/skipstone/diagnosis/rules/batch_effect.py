"""17 and 18: nothing but the batch, the padding, the threads or the backend differs."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import VARIATIONS, Follow, Variation
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import Answer, Rule, place

_BATCH: tuple[Variation, ...] = ("batch", "padding")


def examine(case: Case) -> Answer:
    """Decisions part, B does what it says, and a change that should not matter does the same."""
    step = None if case.parted_at is None else case.step_b(case.parted_at)
    first = case.comparison.first
    if step is None or first is None or case.settings_differ or case.deviations:
        return None
    window = (step.forward, step.forward)
    for variation in VARIATIONS:
        trace = case.ask(Follow("a", "a", window, variation=variation, tensors=False))
        found = None if trace is None else trace.records[0].steps[-1]
        if found is None or found.committed != first.committed_b:
            continue
        batch = variation in _BATCH
        return Finding(
            rule="batch-effect" if batch else "backend-noise",
            number=17 if batch else 18,
            what=f"rounding alone decides here: the {variation} changes the last bits",
            where=place(step, 1, first.position),
            evidence=f"B's scores are within noise of what A's code gives ({case.floor})",
            experiment=f"A, with nothing but the {variation} changed, decides as B does",
            proof=Proof.SUFFICIENT,
            remedy="not a fault of B; compare over many prompts: skipstone audit",
        )
    return None


RULE = Rule(17, "batch-effect", "batch, padding or backend noise", examine)
