"""Keys that a cache policy hides: whether that alone is what differs, or other ones than it should.

Shape letters: K positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Choice, Follow, Patch, Rerun, SideName
from skipstone.diagnosis.factors import Swapped, changes, factors_of, swap
from skipstone.diff import compare
from skipstone.policies import CACHE
from skipstone.record import RunRecord, Tap, TensorKey, Trace

_LED: frozenset[Choice] = frozenset(("rows", "skip"))


@dataclass(frozen=True)
class OtherKeys:
    """Visible positions of a step that are not those that they should be."""

    layers: tuple[int, ...]
    """Layers in which they differ, ascending."""
    positions: np.ndarray
    """Of the first of these layers, ascending."""
    visible: tuple[int, int]
    """How many are visible in it: in B, and as it should be."""
    reproduces: bool | None
    """Whether the reference run, with B's visible positions, scores as B; None if not tried."""


class Hiding(NamedTuple):
    """What hiding keys has to do with the difference that a cache setting makes."""

    found: Swapped
    alone: bool
    """With nothing hidden, the caches of both sides decide alike.

    Else what is hidden changes what B decides, and with nothing hidden it would not be as A does.
    """


def by_setting(case: Case) -> Hiding | None:
    """The cache setting, if the keys that it hides change the decision."""
    if not any(_unhidden(record) for record in (case.record_a, case.record_b)):
        return None
    found = swap(case) if case.expected.conforms else None
    if found is None or found.factors[0].setting != "cache":
        return None
    a, b = _shown(case, "a"), _shown(case, "b")
    if a is None or b is None:
        return None
    if case.divergence.earlier(compare(a, b).first) is None:
        return Hiding(found, alone=True)
    differs = case.divergence.earlier(compare(b, case.record_b).first) is not None
    return Hiding(found, alone=False) if differs else None


def _unhidden(record: RunRecord) -> str:
    """The cache of a run with nothing hidden, as settings spell it; empty if it hides nothing."""
    cache = CACHE.recorded(record.header.settings)
    shown = None if cache is None else cache.unhidden()
    return "" if shown is None else CACHE.spell(shown)


def _shown(case: Case, side: SideName) -> RunRecord | None:
    """The run of one side with no key hidden; None if it cannot be made."""
    record = case.record_a if side == "a" else case.record_b
    cache = _unhidden(record)
    if not cache:
        return record
    until = case.divergence.until
    trace = case.ask(Rerun(side, (("cache", cache),), until=until))
    if trace is None and side == "b":
        # A trace that keeps to its settings is what A's code gives with these settings.
        settings = dict(changes(case, "a", factors_of(case))) | {"cache": cache}
        trace = case.ask(Rerun("a", tuple(sorted(settings.items())), until=until))
    return None if trace is None else trace.records[0]


def other_keys(case: Case) -> OtherKeys | None:
    """Positions of the focus that B's layers see and should not, or should and do not see."""
    if case.tensors.recorded is None or case.tensors.expected is None:
        return None
    trace, sample = case.tensors.recorded
    focus, length = case.tensors.focus, case.record_b.length
    found, patches = dict[int, tuple[np.ndarray, np.ndarray]](), list[Patch]()
    for layer in range(1, case.record_b.header.num_layers + 1):
        key = TensorKey(focus, Tap.VISIBLE, layer)
        mine_K = _visible(trace, sample, key, length)
        right_K = _visible(case.tensors.expected, 0, key, length)
        if (mine_K != right_K).any():
            found[layer] = mine_K, right_K
            values = mine_K[:, None].astype(np.float64)
            patches.append(Patch(Tap.VISIBLE, focus, layer, np.arange(length), values))
    if not found:
        return None
    name, window = "B's visible keys", (focus, focus)
    led = Follow("b", "b", window, led=_LED, patches=tuple(patches), patch_name=name)
    first = min(found)
    mine_K, right_K = found[first]
    return OtherKeys(
        layers=tuple(found),
        positions=np.flatnonzero(mine_K != right_K),
        visible=(int(mine_K.sum()), int(right_K.sum())),
        reproduces=case.proof.reproduces(case.ask(led)),
    )


def _visible(trace: Trace, sample: int, key: TensorKey, length: int) -> np.ndarray:
    """What is visible of a request in a layer, bool [K]: all that is not said to be hidden."""
    visible_K = np.ones(length, bool)
    rows = trace.tensor(sample, key)
    if rows is not None:
        visible_K[rows.positions] = rows.values[:, 0] > 0
    return visible_K
