"""6: the token was a near tie that noise decides."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Follow
from skipstone.diagnosis.finding import Finding, Proof, RuledOut
from skipstone.diagnosis.rule import Answer, Rule, place
from skipstone.diff import logit_gap


def examine(case: Case) -> Answer:
    """Look at the token that differs first: how far is its runner-up, in units of the noise?"""
    first = case.comparison.first
    if first is None or first.kind != "token" or first.a is None or first.b is None:
        return None
    step = case.step_b(case.parted_at or 0)
    if step is None:
        return None
    at = (step.candidates.position == first.position).nonzero()[0]
    gap = float(logit_gap(step.candidates)[at[0]]) if at.size else float("inf")
    if abs(gap) > case.floor.gap:
        return RuledOut(RULE.name, f"the runner-up is {gap:.3g} logits away, noise reaches "
                        f"{case.floor.gap:.2g}")  # fmt: skip
    flips = sum(case.floor.flips.values())
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what="the token is a near tie that noise decides",
        where=place(step, case.record_b.header.num_layers, first.position),
        evidence=f"tokens {first.a.token} and {first.b.token} are {abs(gap):.2g} logits apart; "
        f"noise reaches {case.floor.gap:.2g}",
        experiment=f"{flips} decisions of A near here flip under "
        f"{len(case.floor.measured)} changes that should not matter{_lifted(case, first.position)}",
        proof=Proof.SUFFICIENT if flips else Proof.CONSISTENT,
        remedy="not a fault of B; compare over many prompts: skipstone audit",
    )


def _lifted(case: Case, position: int) -> str:
    """Which token wins without the rounding of the dtype."""
    side = "a" if case.foreign else "b"
    window = (case.horizon, case.horizon)
    trace = case.ask(Follow("b", side, window, lifted=True, tensors=False))
    found = None if trace is None else trace.records[0].steps[-1].candidates.at(position)
    return "" if found is None else f"; in a better dtype it is token {found.token}"


RULE = Rule(6, "near-tie-token", "near tie of the token", examine)
