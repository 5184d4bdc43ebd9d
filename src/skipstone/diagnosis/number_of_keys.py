"""How many keys attention reads, compared before what they hold.

The keys of foreign code are recorded in the order in which they lie in its cache. Where there are
more or fewer of them, rows stand at other places than their positions, and no rule that goes by
positions can speak of them.

Shape letters: N keys of B, M keys of A, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipstone.diagnosis.attention.call import read
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.diagnosis.rule import place
from skipstone.record import AttentionNumbers, StepRecord, Tap, TensorKey, Trace
from skipstone.sentence import NOTHING, Sentence

# Forwards up to the parting that are looked at, the last ones.
_LOOKED_AT = 64


@dataclass(frozen=True, eq=False)
class _Keys:
    """Keys of the first layer in one step of B."""

    step: StepRecord
    mine: int
    """In B's cache."""
    right: int
    """In A's cache of the same step, else positions that were computed by then."""
    from_a: bool
    first: int
    """The first position that holds another row."""

    @property
    def twice(self) -> bool:
        """Whether the canvas has as many positions, and not all of them were computed."""
        return not self.from_a and self.mine <= self.step.entered_age.size


def other_keys(case: Case) -> Finding | None:
    """B's attention reads more or fewer keys than it should, before anything else goes wrong.

    What two codes hand out as their caches need not be the same: one may have room for more, or
    only what a call has computed. Only where both had as many keys before does a number speak.
    """
    if not case.foreign:
        return None
    as_many = False
    for step in _steps(case):
        keys = _keys(case, step)
        if keys is not None and keys.mine != keys.right:
            return _found(keys) if as_many and not _wrong_before(case, step) else None
        as_many |= keys is not None
    return None


def _wrong_before(case: Case, step: StepRecord) -> bool:
    first = case.expected.first
    return first is not None and first.step.forward < step.forward


def _steps(case: Case) -> list[StepRecord]:
    """B's first forward, and the last ones up to where the runs part."""
    steps = [s for s in case.runs.every_b if s.forward <= case.divergence.horizon]
    return [*steps[:-_LOOKED_AT][:1], *steps[-_LOOKED_AT:]]


def _keys(case: Case, step: StepRecord) -> _Keys | None:
    """The keys of a step, beside those of A's same step; None if B's were not recorded."""
    mine = _Read.of(case.runs.b, case.runs.sample_b, step)
    if mine is None:
        return None
    right = _of_a(case, step)
    if right is not None:
        first = _first_other(mine.values_NW, right.values_NW)
        return _Keys(step, mine.number, right.number, True, first)
    # Fewer than were computed is what many caches hold.
    computed, length = int((step.entered_age >= 0).sum()), case.record_b.length
    seen = _seen(case, step) if computed < mine.number <= length else None
    if seen is None:
        return _Keys(step, mine.number, min(length, mine.number), False, length)
    return _Keys(step, seen, min(computed, seen), False, int(step.rows.min(initial=length)))


def _seen(case: Case, step: StepRecord) -> int | None:
    """How many keys some row sees; None if attention was not recorded."""
    call = read(case.runs.b, case.runs.sample_b, step.forward, 1)
    return None if call is None else call.without_unseen(np.zeros(0, int)).places_K.size


@dataclass(frozen=True, eq=False)
class _Read:
    """Keys that attention reads; if it was not recorded, those that the call returns."""

    number: int
    values_NW: np.ndarray
    """Those within the canvas."""

    @classmethod
    def of(cls, trace: Trace, sample: int, step: StepRecord) -> _Read | None:
        """Those of the first layer.

        A call that is not asked for its cache hands out the one that it was given.
        """
        told, attended, kept = (
            trace.tensor(sample, TensorKey(step.forward, tap, 1))
            for tap in (Tap.ATTENTION, Tap.ATTENDED_KEY, Tap.KEY)
        )
        rows = kept if attended is None else attended
        if rows is None:
            return None
        numbers = None if told is None else AttentionNumbers.unpack(told.values)
        return cls(rows.positions.size if numbers is None else numbers.keys, rows.values)


def _of_a(case: Case, step: StepRecord) -> _Read | None:
    """A's keys where it computed the same rows from the same canvas."""
    other = case.divergence.same_step(step)
    if other is None or case.record_a.header.source == "skipstone":
        return None
    if not np.array_equal(other.rows, step.rows):
        return None
    return _Read.of(case.runs.a, case.runs.sample_a, other)


def _first_other(mine_NW: np.ndarray, right_MW: np.ndarray) -> int:
    """The first place where the two hold different rows; else where the shorter one ends."""
    both = min(len(mine_NW), len(right_MW))
    if mine_NW.shape[1:] != right_MW.shape[1:]:
        return 0
    other = np.flatnonzero((mine_NW[:both] != right_MW[:both]).any(1))
    return int(other[0]) if other.size else both


def _found(keys: _Keys) -> Finding:
    more = keys.mine > keys.right
    if keys.twice:
        what = Sentence("attention sees more keys than positions were computed")
    elif not keys.from_a:
        what = Sentence("attention sees keys of positions beyond the canvas")
    elif more:
        what = Sentence("attention sees more keys than in the same step of A")
    else:
        what = Sentence("attention sees fewer keys than in the same step of A")
    return Finding(
        rule="visible-set",
        number=15,
        what=what,
        where=place(keys.step, 1, keys.first),
        evidence=Sentence(
            "{mine} keys against {right} from the same canvas, for the same rows; the first other "
            "one lies at position {first}",
            mine=keys.mine,
            right=keys.right,
            first=keys.first,
        )
        if keys.from_a
        else Sentence(
            "{mine} keys of {right} positions: some stand in the cache twice",
            mine=keys.mine,
            right=keys.right,
        )
        if keys.twice
        else Sentence(
            "keys reach to position {last}, the canvas ends at {end}",
            last=keys.mine - 1,
            end=keys.right - 1,
        ),
        experiment=NOTHING,
        proof=Proof.CONSISTENT,
        remedy=Sentence("crop the cache before the rows of a call are added to it")
        if more
        else Sentence("crop the cache at the position of the first row of the call"),
    )
