"""5: steps commit nothing although masks are left."""

from __future__ import annotations

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.finding import Finding, Proof, RuledOut
from skipstone.diagnosis.rule import Answer, Rule, of_the_loop, place
from skipstone.record import Candidate, RunRecord, StepRecord
from skipstone.sentence import NOTHING, Sentence


def examine(case: Case) -> Answer:
    """Look for a step without a commit, and ask the rule what it would have committed."""
    if case.runs.writes and not _empty(case.record_b):
        # What commits nothing only writes keys and values.
        return None
    return of_the_loop(case, RULE.name, RULE.number) or _seen(case)


def _seen(case: Case) -> Answer:
    empty = _empty(case.record_b)
    if not empty:
        return None
    step = empty[0]
    if case.divergence.first is not None and step.forward != case.divergence.forward:
        # It is a consequence of what went apart before, or changed nothing.
        return None
    other = case.divergence.same_step(step)
    if other is not None and not other.committed:
        return RuledOut(RULE.name, Sentence("A commits nothing there either"))
    if case.foreign and len(_empty(case.record_a)) >= len(empty):
        # A call that only stores a finished block, or a prompt, decides nothing.
        return RuledOut(RULE.name, Sentence("as many steps of A commit nothing"))
    loops = case.loops.compared
    if case.foreign and loops is not None and loops.fit_b is None:
        # Why it commits nothing is the question: no rule that is known does.
        return None
    best = max(step.candidates, key=lambda c: c.confidence, default=None)
    rule = CommitRule.of(case.record_b)
    forced = () if rule is None else rule.commits(step)
    removed = bool(forced) and other is not None and forced == other.committed
    where = None if best is None else best.position
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("steps commit nothing although masks are left"),
        where=place(step, None, where),
        evidence=Sentence(
            "{empty} of {steps} steps; here {masks} masks and {best}",
            empty=len(empty),
            steps=len(case.record_b.steps),
            masks=step.masks_before,
            best=_best(best),
        ),
        experiment=Sentence(
            "forcing one commit a step gives position {position}", position=forced[0]
        )
        if forced
        else NOTHING,
        proof=Proof.SUFFICIENT if removed else Proof.OBSERVED,
        remedy=Sentence(
            "always commit the most confident candidate; check that the rule fits this model"
        ),
    )


def _empty(record: RunRecord) -> list[StepRecord]:
    """Steps that leave the canvas as it was; a commit outside of the block is one, too."""
    after = [*(s.canvas for s in record.steps[1:]), None]
    return [
        s
        for s, canvas in zip(record.steps, after, strict=True)
        if s.masks_before
        and not s.committed
        and s.masks_after == s.masks_before
        and canvas in (s.canvas, None)
    ]


def _best(best: Candidate | None) -> Sentence:
    """How near the best candidate came, in words."""
    if best is None:
        return Sentence("no position had scores")
    if best.bound is None:
        return Sentence(
            "the best candidate has confidence {confidence:.4f}", confidence=best.confidence
        )
    return Sentence(
        "the best candidate has confidence {confidence:.4f}, below the bound {bound:g}",
        confidence=best.confidence,
        bound=best.bound,
    )


RULE = Rule(5, "no-commit", "no commit possible", examine)
