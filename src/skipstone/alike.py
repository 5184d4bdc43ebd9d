"""Requests whose rows lie alike in the K/V store: attention computes them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Alike(NamedTuple):
    """Requests that lie alike: as many rows each, which see as far, and bases as far apart."""

    first: int
    """Their first row; the others follow."""
    requests: tuple[int, ...]
    count: int
    """Rows of each."""
    base: int
    """Of the first."""
    apart: int
    """From one base to the next; 0 where there is one request."""
    bound: int
    """As far as any of these rows sees."""
    even: bool
    """Whether all of them see as far."""


def alike(
    requests: Sequence[int], counts: Sequence[int], horizons: np.ndarray, bases: np.ndarray
) -> list[Alike]:
    """All requests with rows, in order, those together that lie alike.

    Args:
        requests: ascending.
        counts: rows of each.
        horizons: int64, of each row: the first position that it may not see.
        bases: int64, of each row: the cell in which its request begins.
    """
    found, first = list[Alike](), 0
    for request, count in zip(requests, counts, strict=True):
        horizon, base = horizons[first : first + count], int(bases[first])
        bound = int(horizon.max())
        one = Alike(first, (request,), count, base, 0, bound, bool((horizon == bound).all()))
        joined = _joined(found[-1], one) if found else None
        if joined is None:
            found.append(one)
        else:
            found[-1] = joined
        first += count
    return found


def _joined(left: Alike, right: Alike) -> Alike | None:
    """Both as one, if they lie alike; ``right`` is a single request."""
    apart = right.base - left.base - left.apart * (len(left.requests) - 1)
    fits = apart > 0 and left.apart in (0, apart) and left.even and right.even
    if not fits or (left.count, left.bound) != (right.count, right.bound):
        return None
    return left._replace(requests=(*left.requests, *right.requests), apart=apart)
