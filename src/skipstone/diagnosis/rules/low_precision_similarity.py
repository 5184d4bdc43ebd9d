"""2: the similarity is computed in low precision."""

from __future__ import annotations

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.dtypes import DTYPES, rounded
from skipstone.diagnosis.events import event_sentence
from skipstone.diagnosis.factors import factors_of, reproduces, restores
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of, proof_of_skip, tried
from skipstone.record import Judgements, StepRecord
from skipstone.sentence import NOTHING, Code, Sentence, listed

# So many values of which some are 1, as those of states that hardly change.
_MANY = 8


def examine(case: Case) -> Answer:
    """Look for similarities that are all values of a coarse dtype."""
    event = case.event("low_precision_similarity")
    if event is not None:
        return Finding(
            rule=RULE.name,
            number=RULE.number,
            what=Sentence("the similarity is computed in low precision"),
            where=place(case.step_b(event.forward)),
            evidence=event_sentence(event.message),
            experiment=Sentence("the same similarity was computed in float32 beside it"),
            proof=proof_of_skip(case),
            remedy=Sentence("call .float() on both states at {source}", source=Code(event.source)),
        )
    step, dtype = _on_grid(case)
    if step is None or step.judgements is None:
        return None
    removed, added, how = _experiments(case)
    right = _expected(case, step)
    flipped = _flipped(case, step)
    if removed is None and right is not None and case.expected.first is not None:
        how = tried(
            case.proof.fault_removed,
            Sentence("run on B's canvases with the similarity in float32: A's decisions"),
            Sentence("run on B's canvases with the similarity in float32: not A's decisions"),
        )
        explains = _grid_explains(step.judgements, right, dtype)
        added = explains and case.proof.rows_reproduce
        removed = case.proof.fault_removed if added else None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the similarity is computed in {dtype}", dtype=dtype),
        where=place(step, 1, int(flipped[0]) if flipped.size else _first_wrong(case, step)),
        evidence=listed(
            [
                _grid(step.judgements, dtype),
                NOTHING
                if right is None
                else Sentence("{rows} rows are judged otherwise in float32", rows=flipped.size),
            ]
        ),
        experiment=how,
        proof=proof_of(removed=removed, added=added),
        remedy=Sentence("similarity_dtype=float32, or .float() on both states before the cosine"),
        positions=tuple(flipped.tolist()),
    )


def _first_wrong(case: Case, step: StepRecord) -> int | None:
    """The first row of a step whose similarity is not what it should be, by more than noise."""
    deviation = case.expected.first_of("similarity")
    return None if deviation is None or deviation.step is not step else deviation.position


def _on_grid(case: Case) -> tuple[StepRecord | None, str]:
    """The first step whose similarities are all numbers of a coarse dtype.

    Where B does what its settings say, that matters from the first row on that is judged otherwise.
    """
    first, found = case.expected.first, list[tuple[StepRecord, str]]()
    for step in case.record_b.steps:
        if first is not None and step.forward < first.step.forward:
            continue
        if step.judgements is None or step.forward > case.divergence.horizon:
            continue
        values = step.judgements.similarity
        for dtype in ("bfloat16", "float16"):
            if _telling(values) and np.array_equal(rounded(values, dtype), values):
                found.append((step, dtype))
                break
    if first is None:
        found = [f for f in found if _flipped(case, f[0]).size] or found
    return found[0] if found else (None, "")


def _telling(values: np.ndarray) -> bool:
    """Whether values would not be on a grid by chance: 0 and 1 are on every grid."""
    own = np.unique(values[(values != 0) & (values != 1)]).size
    return own > 1 or (own == 1 and values.size > _MANY)


def _flipped(case: Case, step: StepRecord) -> np.ndarray:
    """Positions of rows that are judged otherwise in float32, as far as that is known."""
    right, mine = _expected(case, step), step.judgements
    if right is None or mine is None or not np.array_equal(right.position, mine.position):
        return np.zeros(0, np.int32)
    return right.position[right.stable != mine.stable]


def _grid(judgements: Judgements, dtype: str) -> Sentence:
    values = np.unique(judgements.similarity)
    step = 2.0 ** -(8 if DTYPES[dtype] is DTYPES["bfloat16"] else 11)
    near = int((values > 1 - 4 * step).sum())
    return Sentence(
        "all {count} similarities lie on the {dtype} grid of {step:.2g} ({values} values, {near} "
        "of them near 1)",
        count=judgements.similarity.size,
        dtype=dtype,
        step=step,
        values=values.size,
        near=near,
    )


def _expected(case: Case, step: StepRecord) -> Judgements | None:
    """The judgements of the step in float32: of the reference, or of A at the same canvas."""
    if case.expected.trace is not None and case.expected.first is not None:
        steps = case.expected.trace.records[0].steps
        return next((s.judgements for s in steps if s.forward == step.forward), None)
    other = case.divergence.same_step(step)
    return None if other is None else other.judgements


def _grid_explains(mine: Judgements, right: Judgements, dtype: str) -> bool:
    """Whether rounding the right similarities comes within a grid step of those recorded."""
    if mine.similarity.shape != right.similarity.shape:
        return False
    step = 2.0 ** -(7 if dtype == "bfloat16" else 10)
    return bool((np.abs(mine.similarity - right.similarity) <= 2 * step).all())


def _experiments(case: Case) -> tuple[bool | None, bool | None, Sentence]:
    factor = [f for f in factors_of(case) if f.name == "skip.similarity_dtype"]
    if not factor or case.divergence.first is None:
        return None, None, NOTHING
    removed, added = restores(case, factor), reproduces(case, factor)
    sides = [
        Sentence(_SWAPPED[removed], side="B", dtype=factor[0].a, other="A"),
        Sentence(_SWAPPED[added], side="A", dtype=factor[0].b, other="B"),
    ]
    return removed, added, Sentence("only similarity_dtype swapped: {runs}", runs=listed(sides))


_SWAPPED = {
    True: "{side} with {dtype} decides as {other}",
    False: "{side} with {dtype} does not decide as {other}",
    None: "{side} with {dtype} could not be tried",
}


RULE = Rule(2, "low-precision-similarity", "similarity computed in low precision", examine)
