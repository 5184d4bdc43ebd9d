"""22: the sampler or its random numbers differ."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.factors import swap
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import (
    Answer,
    Rule,
    of_the_loop,
    place,
    proof_of,
    proof_of_patch,
    tried,
)
from skipstone.record.settings import draws
from skipstone.sentence import NOTHING, Code, Sentence

_STATES = ("random before", "random after")
"""Where a recorder of foreign loops says how the generators stood."""


def examine(case: Case) -> Answer:
    """The same logits, another token: by setting, or although the settings are the same."""
    found = swap(case) if case.expected.conforms else None
    if found is not None and found.factors[0].name in ("temperature", "seed", "top_p", "top_k"):
        cut = found.factors[0].name in ("top_p", "top_k")
        first, step = case.divergence.first, case.step_b(case.divergence.forward or 0)
        return Finding(
            rule=RULE.name,
            number=RULE.number,
            what=Sentence("other tokens are left out before one is chosen")
            if cut
            else Sentence("the tokens are drawn with other random numbers"),
            where=place(step, None, None if first is None else first.position),
            evidence=found.said,
            experiment=found.outcome,
            proof=proof_of(removed=found.removed, added=found.added),
            remedy=Sentence("compare runs with the same top_p and top_k")
            if cut
            else Sentence("compare runs with one seed, or at temperature 0"),
        )
    return of_the_loop(case, RULE.name, RULE.number) or _other_numbers(case) or _other_token(case)


def _other_numbers(case: Case) -> Finding | None:
    """Foreign loops that both draw, from the same scores, with other random numbers."""
    first, a, b = case.divergence.first, case.record_a, case.record_b
    if first is None or first.kind == "stop" or not case.foreign:
        return None
    if a.header.settings != b.header.settings or not draws(b.header.settings):
        return None
    states = [[r.header.environment.get(name, "") for name in _STATES] for r in (a, b)]
    if not all(map(all, states)) or states[0] == states[1]:
        return None
    if case.loops.difference is not None or not case.loops.same_scores:
        return None
    seeds = states[0][0] != states[1][0]
    step = case.step_b(first.forward_b)
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the runs begin with other random numbers")
        if seeds
        else Sentence("B draws other random numbers than A, from the same state of the generator"),
        where=place(step, None, first.position),
        evidence=Sentence(
            "both draw tokens at random; the state of the generator before the first commit is "
            "{before_a} and {before_b}, after it {after_a} and {after_b}; the scores are the same",
            before_a=Code(states[0][0]),
            before_b=Code(states[1][0]),
            after_a=Code(states[0][1]),
            after_b=Code(states[1][1]),
        ),
        experiment=NOTHING,
        proof=proof_of(removed=None, added=None),
        remedy=Sentence("seed both runs right before the loop, or compare them at temperature 0")
        if seeds
        else Sentence(
            "draw as many numbers of the same dtype in both, or compare them at temperature 0"
        ),
    )


def _other_token(case: Case) -> Finding | None:
    """Tokens that the logits do not prefer, while the logits themselves are right."""
    if case.foreign and not draws(case.record_b.header.settings):
        # What foreign code does to its logits, to shift or guide them, is not seen.
        return None
    deviation = case.expected.first_of("token")
    # Foreign draws are not replayed: only a run of ours that gives A's tokens tells.
    if case.loops.difference is not None or (case.foreign and case.proof.fault_removed is not True):
        return None
    if deviation is None or case.expected.first_of("rows", "skip") or deviation.expected is None:
        return None
    if any(d.kind in ("state", "key", "value", "logits") for d in case.tensors.away):
        return None
    step, right = deviation.step, deviation.expected
    c, e = step.candidates, right.candidates
    positions = deviation.positions
    if case.foreign:
        # What foreign code drew shows only where it was committed.
        both = np.intersect1d(step.committed, right.committed)
        positions = np.intersect1d(positions, both)
    if not positions.size:
        return None
    drawn = 0
    for position in positions.tolist():
        i = int(np.flatnonzero(c.position == position)[0])
        j = int(np.flatnonzero(e.position == position)[0])
        drawn += bool(c.runner_up[i] == e.token[j] and c.confidence[i] <= c.runner_up_confidence[i])
    greedy = case.record_b.header.settings.get("temperature", "0.0") in ("0", "0.0")
    if greedy and not drawn:
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the sampler takes other tokens than the logits and the seed give"),
        where=place(step, None, int(positions[0])),
        evidence=Sentence(
            "{other} of {candidates} candidates have another token; {drawn} of them are less "
            "probable than their runner-up",
            other=positions.size,
            candidates=len(c),
            drawn=drawn,
        ),
        experiment=tried(
            case.proof.fault_removed,
            Sentence("replayed the stored noise on the reference logits: the decisions are A's"),
            Sentence(
                "replayed the stored noise on the reference logits: the decisions are not A's"
            ),
        ),
        proof=proof_of_patch(case, None),
        remedy=Sentence("draw once for each row in a fixed order, from one generator a request"),
        positions=tuple(positions.tolist()),
    )


RULE = Rule(22, "sampler", "sampler or random numbers differ", examine)
