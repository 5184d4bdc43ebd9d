"""26: NaN or infinity."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of_patch, tried
from skipstone.diff.states import computed
from skipstone.record import OF_ATTENTION, StepRecord, Tap
from skipstone.sentence import NOTHING, Sentence, listed


def examine(case: Case) -> Answer:
    """Find the first number that is none."""
    step = next((s for s in case.record_b.steps if _bad(s, foreign=case.foreign)), None)
    if step is None:
        return None
    found = _first_tensor(case, step) or _first_similarity(step)
    key, layer, positions = found or ("", None, np.zeros(0, np.int32))
    scores = step.candidates.position[no_numbers(step, foreign=case.foreign)]
    position = (
        int((positions if positions.size else scores)[0]) if positions.size or scores.size else None
    )
    born = [d for d in case.tensors.born if np.isnan(d.size)]
    added = case.proof.with_only(born, "B's NaN") if born else None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("values are not finite"),
        where=place(step, layer, position),
        evidence=listed(
            [
                Sentence(
                    "{bad} of {candidates} confidences are no numbers",
                    bad=scores.size,
                    candidates=len(step.candidates),
                ),
                Sentence(
                    "the first is a {tensor} of layer {layer}, at {positions} positions",
                    tensor=Sentence(key),
                    layer=layer,
                    positions=positions.size,
                )
                if key
                else NOTHING,
            ]
        ),
        experiment=tried(
            case.proof.fault_removed,
            Sentence("run on B's canvases, the reference engine stays finite and decides as A"),
            Sentence(
                "run on B's canvases, the reference engine stays finite and does not decide as A"
            ),
        ),
        # Scores that are not numbers equal none: that they differ refutes nothing.
        proof=proof_of_patch(case, added or None),
        remedy=Sentence("look for a division by zero, an overflow, or a row that may see no key"),
        positions=tuple(positions.tolist()),
    )


def _bad(step: StepRecord, *, foreign: bool) -> bool:
    judged = step.judgements
    similar = True if judged is None else bool(np.isfinite(judged.similarity).all())
    return bool(no_numbers(step, foreign=foreign).any()) or not similar


def no_numbers(step: StepRecord, *, foreign: bool) -> np.ndarray:
    """Bool [C]: confidences that are not finite, as far as they were computed at all.

    A recorder of other code writes NaN where a call did not score what the loop commits; then the
    runner-up is known, or the candidate is none of this call.
    """
    c = step.candidates
    bad_C = ~np.isfinite(c.confidence)
    return bad_C & c.eligible & ~np.isfinite(c.runner_up_confidence) if foreign else bad_C


_Found = tuple[str, int, np.ndarray]
"""What it is, its layer, the positions."""


def _first_similarity(step: StepRecord) -> _Found | None:
    judged = step.judgements
    bad_JS = np.zeros((0, 0)) if judged is None else ~np.isfinite(judged.similarity)
    if judged is None or not bad_JS.any():
        return None
    layer = int(bad_JS.any(0).argmax())
    return "similarity", layer + 1, judged.position[bad_JS[:, layer]]


def _first_tensor(case: Case, step: StepRecord) -> _Found | None:
    found = case.tensors.at(step.forward)
    if found is None:
        return None
    trace, sample = found
    left_out = OF_ATTENTION | {Tap.SKETCH}
    keys = [k for k in trace.keys(sample) if k.forward == step.forward and k.tap not in left_out]
    for key in sorted(keys, key=computed):
        rows = trace.tensor(sample, key)
        assert rows is not None
        bad = ~np.isfinite(rows.values.astype(np.float64)).all(1)
        if bad.any():
            return key.tap.value, key.layer, rows.positions[bad]
    return None


RULE = Rule(26, "non-finite", "non-finite values", examine)
