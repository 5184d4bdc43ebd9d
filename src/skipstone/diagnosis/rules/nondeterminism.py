"""30: a run is not the same twice."""

from __future__ import annotations

from functools import reduce
from itertools import combinations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Rerun, SideName
from skipstone.diagnosis.finding import Finding, Place, Proof
from skipstone.diagnosis.rule import Answer, Rule, of_attention, place
from skipstone.record import RunRecord, StepRecord, Tap, TensorKey, TensorRows, Trace
from skipstone.sentence import NOTHING, Code, Sentence

# Relative: what another order of sums does not do to a row, in any dtype.
_NO_NOISE = 5e-2


def examine(case: Case) -> Answer:
    """Run each side again a few times; no cause is claimed where they differ by themselves."""
    if case.divergence.comparison.identical:
        return None
    seen = of_attention(case, RULE.name, RULE.number) or _same_rows_differ(case)
    if seen is not None:
        return seen
    sides: tuple[SideName, ...] = ("a", "b")
    for side in sides:
        firsts = case.noise.self_runs(side)
        flips = sum(f is not None for f in firsts)
        if firsts and not flips:
            flips = _redrawn(case, side, len(firsts))
        if not flips:
            continue
        return Finding(
            rule=RULE.name,
            number=RULE.number,
            what=Sentence("{side} is not the same twice", side=side.upper()),
            where=_where(case, side),
            evidence=Sentence(
                "{flips} of {runs} runs of {side} with the same settings decide otherwise than its "
                "trace",
                flips=flips,
                runs=len(firsts),
                side=side.upper(),
            ),
            experiment=Sentence(
                "ran {side} again {runs} times", side=side.upper(), runs=len(firsts)
            ),
            proof=Proof.SUFFICIENT,
            remedy=Sentence(
                "fix seeds, set torch.use_deterministic_algorithms(True), then compare again"
            ),
        )
    return None


def _same_rows_differ(case: Case) -> Finding | None:
    """Rows of B that enter the first layer alike in three forwards, and give three results there.

    Values of the first layer follow from their own row alone, whatever the others hold. Two results
    may be those of two ways to compute them.
    """
    if case.foreign and not _moved_values(case.runs.a, case.runs.sample_a, case.record_a).size:
        moved = _moved_values(case.runs.b, case.runs.sample_b, case.record_b)
    else:
        moved = np.zeros(0, int)
    if not moved.size:
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("B computes other values from the same row in every forward"),
        where=place(case.record_b.steps[0], 1, int(moved[0])),
        evidence=Sentence(
            "three forwards give {rows} rows the same state before layer 1, bit for bit, and three "
            "different values in it; A's rows get one",
            rows=moved.size,
        ),
        experiment=NOTHING,
        proof=Proof.CONSISTENT,
        remedy=Sentence(
            "call {call} before the loop, then compare again", call=Code("model.eval()")
        ),
        positions=tuple(moved.tolist()),
    )


def _moved_values(trace: Trace, sample: int, record: RunRecord) -> np.ndarray:
    """Positions whose values in layer 1 differ in each of the first three forwards."""
    steps = record.steps[:3]
    states = [trace.tensor(sample, TensorKey(s.forward, Tap.STATE, 0)) for s in steps]
    values = [_values(trace, sample, step) for step in steps]
    known = [x for x in (*states, *values) if x is not None]
    if len(known) < 6 or len({x.values.shape[1] for x in values if x is not None}) > 1:
        return np.zeros(0, int)
    rows = reduce(np.intersect1d, (x.positions for x in known))
    of_state, of_value = (
        [x.at(rows).astype(np.float64) for x in kind if x is not None] for kind in (states, values)
    )
    moved = np.ones(rows.size, bool)
    for i, j in combinations(range(3), 2):
        error = np.linalg.norm(of_value[i] - of_value[j], axis=1)
        moved &= (of_state[i] == of_state[j]).all(1)
        moved &= error > _NO_NOISE * np.linalg.norm(of_value[i], axis=1)
    return rows[moved]


def _values(trace: Trace, sample: int, step: StepRecord) -> TensorRows | None:
    """Values of layer 1 that this step computed, if it computed all that it read."""
    found = trace.tensor(sample, TensorKey(step.forward, Tap.ATTENDED_VALUE, 1))
    return found if found is not None and np.array_equal(found.positions, step.rows) else None


def _redrawn(case: Case, side: SideName, attempts: int) -> int:
    """How many runs, repeated to their end, give other tokens, though a seed fixes the draws.

    Draws without a seed can agree by chance up to where A and B part.
    """
    record = case.record_a if side == "a" else case.record_b
    if float(record.header.settings.get("temperature", "0")) == 0:
        return 0
    runs = (case.ask(Rerun(side, attempt=n + 1)) for n in range(attempts))
    return sum(t is not None and t.records[0].tokens != record.tokens for t in runs)


def _where(case: Case, side: SideName) -> Place:
    """The first candidate that a repetition, or the other side, scores otherwise."""
    record = case.record_a if side == "a" else case.record_b
    runs = (case.ask(Rerun(side, attempt=n + 1, until=case.divergence.until)) for n in range(2))
    again = [t.records[0].steps for t in runs if t is not None]
    again.append((case.record_b if side == "a" else case.record_a).steps)
    for step in record.steps:
        for other in (s for steps in again for s in steps if s.forward == step.forward):
            moved = _moved(step, other, case.noise.floor.confidence)
            if moved.size:
                return place(step, None, int(moved[0]))
    return Place()


def _moved(step: StepRecord, other: StepRecord, floor: float) -> np.ndarray:
    """Positions of candidates with another token or confidence, if both saw the same canvas."""
    mine, theirs = step.candidates, other.candidates
    if step.canvas != other.canvas or not np.array_equal(mine.position, theirs.position):
        return np.zeros(0, np.int32)
    same = (mine.token == theirs.token) & (np.abs(mine.confidence - theirs.confidence) <= floor)
    return mine.position[~same | (mine.committed != theirs.committed)]


RULE = Rule(30, "nondeterminism", "a run differs from itself", examine)
