"""25: something is left from an earlier request."""

from __future__ import annotations

from functools import reduce

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.deviation import errors
from skipstone.diagnosis.events import event_sentence
from skipstone.diagnosis.experiment import Rerun
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rule import Answer, Rule, place, proof_of, proof_of_patch, tried
from skipstone.diff import compare
from skipstone.record import StepRecord, Tap, TensorKey
from skipstone.sentence import Code, Sentence

# Rows of other tokens are this far from the right ones, and more; rounded ones are not.
_OTHER = 0.2
# Layers whose values have to be wrong.
_LAYERS = 2


def examine(case: Case) -> Answer:
    """Rows that this request never computed are read; or only the first run of a process is A's."""
    found = _shared_cache(case) or _of_another_request(case)
    if found is not None:
        return found
    deviation = case.expected.first_of("rows")
    if deviation is not None and deviation.expected is not None:
        step = deviation.step
        missing = np.setdiff1d(deviation.expected.rows, step.rows)
        never = _read(case, step, missing[step.entered_age[missing] < 0])
        if never.size:
            return Finding(
                rule=RULE.name,
                number=RULE.number,
                what=Sentence("the cache is read where this request never wrote it"),
                where=place(step, 1, int(never[0])),
                evidence=Sentence(
                    "{positions} positions have K/V of an earlier request, or none",
                    positions=never.size,
                ),
                experiment=tried(
                    case.proof.fault_removed,
                    Sentence("run on B's canvases with all rows: the decisions are A's"),
                    Sentence("run on B's canvases with all rows: the decisions are not A's"),
                ),
                proof=proof_of_patch(case, case.proof.rows_reproduce),
                remedy=Sentence("compute every row in the first forward of a request"),
                positions=tuple(never.tolist()),
            )
    return _only_later_runs(case)


def _read(case: Case, step: StepRecord, never: np.ndarray) -> np.ndarray:
    """Of positions that were never computed, those that a step of foreign code can have read.

    Positions after its rows need not exist yet: a canvas may grow.
    """
    if not case.foreign or not never.size:
        return never
    found = case.tensors.at(step.forward)
    key = TensorKey(step.forward, Tap.KEY, 1)
    keys = None if found is None else found[0].tensor(found[1], key)
    kept = np.zeros(0, np.int32) if keys is None else keys.positions
    return never[(never < step.rows.max(initial=-1)) | np.isin(never, kept)]


def _shared_cache(case: Case) -> Finding | None:
    """Foreign code ran one step twice, and the first call overwrote the cache of the second."""
    event = case.event("cache_overwritten")
    if event is None:
        return None
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("a step starts from a cache that another call has overwritten"),
        where=place(case.step_b(event.forward), 1, next(iter(event.positions_a), None)),
        evidence=event_sentence(event.message),
        experiment=tried(
            case.proof.rows_reproduce,
            Sentence("run on B's calls with one store for all of them: B's scores"),
            Sentence("run on B's calls with one store for all of them: not B's scores"),
        ),
        proof=proof_of_patch(case, case.proof.rows_reproduce),
        remedy=Sentence("copy the cache before each call at {source}", source=Code(event.source)),
        positions=event.positions_a,
    )


def _of_another_request(case: Case) -> Finding | None:
    """Cached rows were computed from other tokens than this request has.

    Values of the first layer depend on the token of their position alone, and a prompt never
    changes: no earlier forward of this run can have computed others. What damages rows, as
    rounding does, stays near the right ones; and where tokens are the same, as masks are, it would
    not spare the first layer and spoil the others.
    """
    wrong = case.tensors.cached_wrong
    values = {d.layer: d.positions for d in wrong if d.kind == "value"}
    if case.held is not None or 1 not in values or len(values) < _LAYERS:
        return None
    step, prompt = wrong[0].step, case.record_b.prompt_length
    cached = np.setdiff1d(np.arange(case.record_b.length), case.tensors.fresh(1))
    same = np.setdiff1d(cached, values[1])
    spoiled = reduce(np.union1d, (p for layer, p in values.items() if layer != 1))
    of_prompt = values[1][values[1] < prompt]
    if not of_prompt.size or not same.size or not np.isin(same, spoiled).all():
        return None
    apart = _apart(case, of_prompt)
    if apart is None or apart < _OTHER:
        return None
    added = case.proof.with_only(
        [d for d in wrong if d.kind in ("key", "value")], "B's rows of another request"
    )
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("the cache holds keys and values of another request"),
        where=place(step, 1, int(of_prompt[0])),
        evidence=Sentence(
            "values of layer 1 at {wrong} positions of the prompt are those of other tokens (error "
            "{apart:.2g}), at {same} cached positions they are right, and in later layers none is: "
            "no forward of this run has computed them",
            wrong=of_prompt.size,
            apart=apart,
            same=same.size,
        ),
        experiment=tried(
            added,
            Sentence("put B's rows into the reference run: B's scores"),
            Sentence("put B's rows into the reference run: not B's scores"),
        ),
        proof=proof_of_patch(case, added),
        remedy=Sentence("start each request with an empty cache"),
        positions=tuple(of_prompt.tolist()),
    )


def _apart(case: Case, positions: np.ndarray) -> float | None:
    """The usual error of values of the first layer at some positions; None if it is not known."""
    if case.tensors.recorded is None or case.tensors.expected is None:
        return None
    key = TensorKey(case.tensors.focus, Tap.VALUE, 1)
    found = errors(*case.tensors.recorded, case.tensors.expected, key)
    if found is None:
        return None
    known, error = found
    return float(np.median(error[np.isin(known, positions)]))


def _only_later_runs(case: Case) -> Finding | None:
    """Run B again twice: do they differ from each other?"""
    if case.expected.first is None or case.record_b.header.batch > 1:
        return None
    first, second = (case.ask(Rerun("b", attempt=n, until=case.divergence.until)) for n in (1, 2))
    if first is None or second is None:
        return None
    one, two = first.records[0], second.records[0]
    apart = case.divergence.earlier(compare(one, two).first)
    if apart is None or case.divergence.earlier(compare(two, case.record_b).first) is not None:
        return None
    as_a = case.divergence.earlier(compare(one, case.record_a).first) is None
    step = case.expected.first.step
    return Finding(
        rule=RULE.name,
        number=RULE.number,
        what=Sentence("B depends on what ran before it"),
        where=place(step, case.expected.first.layer, case.expected.first.position),
        evidence=Sentence(
            "the first run in a fresh state is A's, later ones are B's"
            if as_a
            else "the first run in a fresh state is another one, later ones are B's"
        ),
        experiment=Sentence("ran B twice in one process"),
        proof=proof_of(removed=as_a, added=True),
        remedy=Sentence("clear buffers at the start of a request"),
    )


RULE = Rule(25, "leftover-state", "state left from an earlier request", examine)
