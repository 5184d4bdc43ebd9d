"""What sessions of policies keep of a batch, beside what lies in the cells of its store.

States that a skip compares rows with, and tables of caches, are made for all slots at once and as
long as the canvas. They are taken from the memory that an engine is given, like keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from skipstone.cache import CachePolicy
from skipstone.canvas import Geometry
from skipstone.engine.guarded import guarded
from skipstone.engine.request import Request
from skipstone.memory.kept import Keeping
from skipstone.skip import SkipPolicy


class SessionsHold(NamedTuple):
    """What the sessions of a batch may keep, or what those of some requests do."""

    rows: int = 0
    """Rows of a request that the skip may keep something of."""
    tables: int = 0
    """Bytes that sessions of cache policies keep."""

    def covers(self, other: SessionsHold) -> bool:
        """Whether the other needs no more in anything."""
        return other.rows <= self.rows and other.tables <= self.tables


class Beside(NamedTuple):
    """What there is beside keys and values."""

    keeping: Keeping = frozenset()
    """In the cells of the store: in each as much."""
    bytes: int = 0
    """Elsewhere, for the batch as a whole."""

    def join(self, other: Beside) -> Beside:
        """Room for either."""
        return Beside(self.keeping | other.keeping, max(self.bytes, other.bytes))

    def covers(self, other: Beside) -> bool:
        """Whether there is room for the other."""
        return other.keeping <= self.keeping and other.bytes <= self.bytes


def held_by(requests: Sequence[Request], geometry: Geometry) -> SessionsHold:
    """What sessions keep of these requests in a batch of that shape, at most.

    Raises:
        PolicyError: a policy raised an error.
    """
    caches = (request.settings.cache for request in requests)
    return SessionsHold(max(map(rows_of, requests), default=0), tables_of(caches, geometry))


def rows_of(request: Request) -> int:
    """Rows of a request that a skip may keep something of."""
    start, cache = len(request.prompt), request.settings.cache
    spans = (
        request.reach.span(start + block.start, start + block.stop, request.length)
        for block in request.blocks
    )
    widest = max((end - first for first, end in spans), default=0)
    with guarded(cache):
        return cache.most_rows(widest, request.length)


def tables_of(policies: Iterable[CachePolicy], geometry: Geometry) -> int:
    """Bytes that sessions of cache policies keep; equal ones share a session."""
    # A policy need not be hashable.
    found = list[CachePolicy]()
    for policy in policies:
        if policy not in found:
            found.append(policy)
    taken = 0
    for policy in found:
        with guarded(policy):
            taken += policy.session_bytes(geometry)
    return taken


def bytes_of(held: SessionsHold, skip: SkipPolicy, geometry: Geometry) -> int:
    """All that sessions keep of a batch of that shape, at most."""
    with guarded(skip):
        return held.tables + skip.session_bytes(geometry, held.rows)
