"""10: a wrong token is locked in by the order in which its neighbours were committed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.experiment import Rescore
from skipstone.diagnosis.factors import swap
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, of_the_loop, place, proof_of
from skipstone.sentence import NOTHING, Sentence, listed

_NEIGHBOURHOOD = 4
_ORDERED_BY = ("unmask.order", "unmask.sigma", "unmask", "seed")
"""Settings that say which masks come first."""
_REMEDY = Sentence(
    "commit by confidence; a token once placed confirms itself, so re-mask to correct"
)


def examine(case: Case) -> Answer:
    """Look for another order of commits: against the settings, or by them."""
    found = _against_the_settings(case) or _by_setting(case)
    return found or of_the_loop(case, RULE.name, RULE.number)


def _against_the_settings(case: Case) -> Finding | None:
    """As many commits as are due, and not those of the most confident candidates."""
    deviation = case.expected.first_of("commit")
    rule = CommitRule.of(case.record_b)
    if deviation is None or deviation.expected is None or rule is None:
        return None
    if case.expected.first_of("scores", "confidence", "token", "rows", "skip"):
        return None
    step, due = deviation.step, deviation.expected.committed
    confidence = {c.position: c.confidence for c in step.candidates if c.eligible}
    if len(step.committed) != len(due) or not set(step.committed) <= set(confidence):
        return None
    worst, passed = (min(confidence[p] for p in chosen) for chosen in (step.committed, due))
    if passed - worst <= case.noise.floor.confidence:
        return None
    replayed = rule.commits(step) == due
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("masks are committed in another order than by confidence"),
        where=place(step, None, deviation.position),
        evidence=Sentence(
            "B commits {committed}, down to confidence {worst:.4f}, and passes over {passed}, down "
            "to {passed_worst:.4f}",
            committed=_spell(step.committed),
            worst=worst,
            passed=_spell(sorted(set(due) - set(step.committed))),
            passed_worst=passed,
        ),
        experiment=Sentence("replayed the stated rule on B's own confidences: A's commits")
        if replayed
        else NOTHING,
        proof=proof_of(removed=replayed or None, added=None),
        remedy=_REMEDY,
        positions=tuple(deviation.positions.tolist()),
    )


def _by_setting(case: Case) -> Finding | None:
    """The order is a setting: mask a wrong token again, alone and with its neighbours."""
    found = swap(case) if case.expected.conforms else None
    if found is None or found.factors[0].name not in _ORDERED_BY:
        return None
    first, step = case.divergence.first, case.step_b(case.divergence.forward or 0)
    if first is None or step is None or first.kind != "committed_set":
        return None
    if len(first.committed_a) != len(first.committed_b):
        return None
    evidence = [Sentence("both commit as many tokens a step, in another order")]
    wrong = case.divergence.comparison.differing_positions
    if wrong:
        alone = _confidence(case, wrong[0], (wrong[0],))
        near = _confidence(case, wrong[0], _near(case, wrong[0]))
        if alone is not None and near is not None:
            evidence.append(
                Sentence(
                    "the token of position {position} has probability {alone:.3g} given all others "
                    "and {near:.3g} with its neighbours masked again",
                    position=wrong[0],
                    alone=alone,
                    near=near,
                )
            )
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the order of commits decides the answer"),
        where=place(step, None, first.position),
        evidence=listed(evidence),
        experiment=found.outcome,
        proof=proof_of(removed=found.removed, added=found.added),
        remedy=_REMEDY,
        positions=wrong,
    )


def _spell(positions: Sequence[int]) -> str:
    return ", ".join(map(str, positions))


def _near(case: Case, position: int) -> tuple[int, ...]:
    start, stop = case.record_b.prompt_length, case.record_b.length
    first, last = max(start, position - _NEIGHBOURHOOD), min(stop, position + _NEIGHBOURHOOD + 1)
    return tuple(range(first, last))


def _confidence(case: Case, position: int, masked: tuple[int, ...]) -> float | None:
    """Probability of B's final token at a position when some positions are masked again."""
    record = case.record_b
    trace = case.ask(Rescore("b", record.tokens, masked))
    if trace is None:
        return None
    candidates = trace.records[0].steps[0].candidates
    at = np.flatnonzero(candidates.position == position)
    if not at.size:
        return None
    token = record.tokens[position - record.prompt_length]
    best = candidates.token[at[0]] == token
    confidence = candidates.confidence if best else candidates.runner_up_confidence
    return float(confidence[at[0]])


RULE = Rule(10, "reveal-order", "reveal-order lock-in", examine)
