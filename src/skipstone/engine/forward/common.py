"""Rows that several requests have in common are computed once, for all of them.

Requests with one prompt and different settings compute the same until what they commit parts: the
same tokens at the same positions, over the same keys and values. Which keys and values a request
has follows from its *history*: all that was computed of it since all of it was computed last. So
two requests with one history and the same rows share a forward: one of them leads, the others take
over its states, keys and values, bit for bit. A request in whose forward its cache policy has a say
computes its own, and has its history to itself until all of it is computed without that.

Shape letters: B requests, L canvas length, N packed rows.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from skipstone.engine.forward.followers import Leaders, computed_at, following
from skipstone.engine.forward.runner import Pass
from skipstone.memory.store import KVStore
from skipstone.rows import Rows, to_device


class Histories:
    """What has been computed of the request in each slot, as far as its K/V depend on it."""

    def __init__(self) -> None:
        """Know of nobody."""
        self._of = dict[int, bytes]()
        self._numbers = itertools.count()

    def forget(self, slots: Iterable[int]) -> None:
        """Nobody has the history of these: another request has come, or nobody knows it."""
        for slot in slots:
            self._of[slot] = str(next(self._numbers)).encode()

    def leaders(self, rows: Rows, ids_BL: np.ndarray, judging: Collection[int] = ()) -> Leaders:
        """Who computes for whom in a forward over ``rows``; the first of each kind leads.

        Args:
            rows: of all.
            ids_BL: the canvas.
            judging: slots whose policies have a say in the midst of it.
        """
        first = dict[bytes, int]()
        after = self._after(rows, ids_BL, judging)
        return {slot: first.setdefault(history, slot) for slot, history in after.items()}

    def computed(self, rows: Rows, ids_BL: np.ndarray, judging: Collection[int] = ()) -> None:
        """A forward over ``rows`` is done, by whomever."""
        self._of.update(self._after(rows, ids_BL, judging))

    def _after(self, rows: Rows, ids_BL: np.ndarray, judging: Collection[int]) -> dict[int, bytes]:
        """The histories of the requests in ``rows``, once these are computed."""
        found, first = dict[int, bytes](), 0
        for slot, count in zip(rows.requests, rows.counts, strict=True):
            mine = slice(first, first + count)
            first += count
            if slot in judging:
                found[slot] = str(next(self._numbers)).encode()
                continue
            position, horizon = rows.position[mine], rows.horizon[mine]
            # Positions ascend: if there are as many as are seen, nothing that was there is left.
            before = b"" if count == horizon.max() else self._of[slot]
            told = (position, horizon, ids_BL[slot, position])
            history = hashlib.blake2b(before, digest_size=16)
            for numbers in told:
                history.update(numbers.tobytes())
            found[slot] = history.digest()
        return found


def led_rows(rows: Rows, leaders: Leaders) -> Rows:
    """The rows that are computed: those of the requests that lead."""
    leads = [slot for slot in rows.requests if leaders[slot] == slot]
    if len(leads) == len(rows.requests):
        return rows
    return rows.only(leads)


def spread(done: Pass, rows: Rows, leaders: Leaders, store: KVStore) -> Pass:
    """What was computed for those that lead, for all of them. Changes the store.

    Args:
        done: the forward over ``led_rows(rows, leaders)``; no row of those that lead left or came.
        rows: of all.
        leaders: who computed for whom.
        store: takes the K/V of those that follow.
    """
    if done.entered.num_rows == rows.num_rows:
        return done
    theirs = following(rows, leaders)
    _copy(theirs, rows, leaders, store)
    assert done.computed is not None
    computed = Rows.join(done.computed, theirs)
    index_N = to_device(computed_at(computed, done.computed, leaders), rows.device)
    return replace(
        done,
        entered=rows,
        computed=computed,
        x_ND=done.x_ND[index_N],
        named=[named._replace(rows=named.rows.beside(theirs)) for named in done.named],
        reuses=[reuse._replace(computed=reuse.computed.beside(theirs)) for reuse in done.reuses],
    )


def _copy(theirs: Rows, rows: Rows, leaders: Leaders, store: KVStore) -> None:
    bases = dict(zip(rows.request.tolist(), rows.base.tolist(), strict=True))
    first = 0
    for slot, count in zip(theirs.requests, theirs.counts, strict=True):
        position = theirs.position[first : first + count]
        store.take_over(position, bases[leaders[slot]], bases[slot])
        first += count
