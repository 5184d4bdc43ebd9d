"""6: the token was a near tie that noise decides."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import VARIATIONS, Follow
from skipstone.diagnosis.finding import Finding, Proof, RuledOut
from skipstone.diagnosis.rule import Answer, Rule, place
from skipstone.diff import logit_gap
from skipstone.sentence import NOTHING, Sentence, TokenId, listed


def examine(case: Case) -> Answer:
    """Look at the token that differs first: how far is its runner-up, in units of the noise?"""
    first = case.divergence.first
    if first is None or first.kind != "token" or first.a is None or first.b is None:
        return None
    step = case.step_b(case.divergence.forward or 0)
    if step is None:
        return None
    at = (step.candidates.position == first.position).nonzero()[0]
    gap = float(logit_gap(step.candidates)[at[0]]) if at.size else float("inf")
    if gap != gap:
        # The scores of this row were not recorded: nothing says that they are close.
        return None
    if abs(gap) > case.noise.floor.gap:
        # B may take another token than the best: the best is as far from it, on the other side.
        why = Sentence(
            "the runner-up is {gap:.3g} logits away, noise reaches {noise:.2g}",
            gap=abs(gap),
            noise=case.noise.floor.gap,
        )
        return RuledOut(RULE.name, why)
    beyond = _beyond_noise(case)
    if beyond is not None:
        return beyond
    flips = sum(case.noise.floor.flips.values())
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the token is a near tie that noise decides"),
        where=place(step, case.record_b.header.num_layers, first.position),
        evidence=Sentence(
            "tokens {a} and {b} are {gap:.2g} logits apart; noise reaches {noise:.2g}",
            a=TokenId(first.a.token),
            b=TokenId(first.b.token),
            gap=abs(gap),
            noise=case.noise.floor.gap,
        ),
        experiment=listed(
            [
                Sentence(
                    "{flips} decisions of A near here flip under {changes} changes that should not "
                    "matter",
                    flips=flips,
                    changes=len(case.noise.floor.measured),
                ),
                _lifted(case, first.position),
            ]
        ),
        proof=Proof.SUFFICIENT if _flips_here(case) else Proof.CONSISTENT,
        remedy=Sentence("not a fault of B; compare over many prompts with skipstone audit"),
    )


def _beyond_noise(case: Case) -> RuledOut | None:
    """What says that more than noise is at work, whatever the margin of this one token is."""
    born = case.tensors.born
    if born:
        why = Sentence(
            "a {tensor} of layer {layer} is wrong by {error:.2g} from right inputs, where noise "
            "reaches {floor:.1g}",
            tensor=Sentence(born[0].kind),
            layer=born[0].layer,
            error=born[0].size,
            floor=born[0].floor,
        )
        return RuledOut(RULE.name, why)
    return None


def _flips_here(case: Case) -> bool:
    """Whether a change that should not matter gives B's token at this very place of A."""
    first = case.divergence.first
    if first is None or first.b is None:
        return False
    varied = (trace for name in VARIATIONS if (trace := case.noise.varied(name)) is not None)
    found = (
        step.candidates.at(first.position)
        for trace in varied
        for step in trace.records[0].steps
        if step.forward == first.forward_a
    )
    return any(c is not None and c.token == first.b.token for c in found)


def _lifted(case: Case, position: int) -> Sentence:
    """Which token wins without the rounding of the dtype."""
    side = "a" if case.foreign else "b"
    window = (case.divergence.horizon, case.divergence.horizon)
    trace = case.ask(Follow("b", side, window, lifted=True, tensors=False))
    found = None if trace is None else trace.records[0].steps[-1].candidates.at(position)
    if found is None:
        return NOTHING
    return Sentence("in a better dtype it is token {token}", token=TokenId(found.token))


RULE = Rule(6, "near-tie-token", "near tie of the token", examine)
