"""3: the skip threshold is so close to similarities that noise or the dtype decides."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.factors import factors_of, reproduces, restores
from skipstone.diagnosis.finding import Finding, RuledOut
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of
from skipstone.diagnosis.skip_rule import SkipRule
from skipstone.diff.floor import estimated_floor
from skipstone.record import StepRecord
from skipstone.sentence import Sentence

# No band of noise is wider.
_WIDEST = 0.01


def examine(case: Case) -> Answer:
    """Look at the first step in which the two runs skip other rows from the same canvas."""
    found = _first_flip(case)
    if found is None:
        return None
    step, other, flipped = found
    wrong = (d for d in case.expected.deviations if d.kind == "similarity")
    if any(d.step.forward <= step.forward for d in wrong):
        # Further off than noise, the similarities themselves differ.
        return RuledOut(RULE.name, Sentence("B's similarities are not what its settings give"))
    mine, right = step.judgements, other.judgements
    assert mine is not None
    assert right is not None
    rule = SkipRule.of(case.record_b)
    held, other_held = (None if rule is None else rule.replay(j) for j in (mine, right))
    if rule is None or held is None or other_held is None:
        return None
    turned = np.isin(mine.position, flipped)
    near = np.abs(held.slack_J[turned])
    apart = np.abs(held.measure_J - other_held.measure_J)[turned]
    noise, apart = _noise(case), float(apart.max(initial=0.0))
    band = max(noise, apart)
    if (
        not (near <= band).all()
        or band > _WIDEST
        or apart > max(noise, case.noise.floor.similarity)
    ):
        return None
    thresholds = [f for f in factors_of(case) if f.name == f"skip.{rule.bar.setting}"]
    removed = restores(case, thresholds) if thresholds and case.divergence.first else None
    added = reproduces(case, thresholds) if thresholds and case.divergence.first else None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the skip threshold lies inside the band that the arithmetic cannot decide"),
        where=place(step, 1, int(flipped[0])),
        evidence=Sentence(
            "{rows} rows within {near:.1e} of the threshold {threshold:g} fall on different sides; "
            "the same states give similarities {apart:.1e} apart",
            rows=flipped.size,
            near=float(near.max()),
            threshold=rule.bar.value,
            apart=apart,
        ),
        experiment=Sentence("both runs judged the same canvas with the same threshold"),
        proof=proof_of(removed=removed, added=added),
        remedy=Sentence(
            "move the threshold by more than {band:.1e}, or compute the similarity in float32",
            band=band,
        ),
        positions=tuple(flipped.tolist()),
    )


def _noise(case: Case) -> float:
    """What noise does to a similarity.

    Where repetitions skip other rows themselves, their later similarities are of other states.
    """
    measured = case.noise.floor.similarity
    if measured <= _WIDEST:
        return measured
    return min(measured, estimated_floor(case.record_b.header).similarity)


def _first_flip(case: Case) -> tuple[StepRecord, StepRecord, np.ndarray] | None:
    """The first step where rows are judged otherwise although nothing but noise differs."""
    for step in case.record_b.steps:
        other = case.divergence.same_step(step)
        if step.forward > case.divergence.horizon or other is None:
            continue
        mine, right = step.judgements, other.judgements
        if mine is None or right is None or mine.similarity.shape != right.similarity.shape:
            continue
        if not np.array_equal(mine.position, right.position):
            continue
        flipped = mine.position[mine.stable != right.stable]
        if flipped.size:
            return (step, other, flipped) if _same_rule(case) else None
    return None


def _same_rule(case: Case) -> bool:
    """Whether both skip by the same rule, so that only the similarities can differ."""
    return not any(f.setting == "skip" for f in factors_of(case))


RULE = Rule(3, "threshold-in-band", "threshold inside the noise band", examine)
