"""Certainty density: how much of what is near each new position is decided, by a Gaussian.

``certainty_density`` in d2Cache (Jiang et al., arXiv 2509.23094; github.com/Kamichanw/d2Cache,
commit 72feb60). Left of all that is decoded, as many positions as that has count as decided; so do
as many right of it, if its last one is.

Weights are whole multiples of a small number, so that their sums are exact in whatever order they
are added: device and host, alone and in a batch, agree to the bit, and what is equal stays equal.

Shape letters: G new positions, K distances.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

_WIDE = 2.0
"""From this width on, a Gaussian's sum over whole numbers is its integral, but for rounding."""
_COARSEST = 2.0**-20
"""Of a Gaussian that is wider than whatever is decoded, all weights are 1."""


@lru_cache(maxsize=64)
def weights_by_distance(sigma: float, count: int) -> np.ndarray:
    """What a decided position counts for one that is so far from it: float64 [K], 1 at distance 0.

    Args:
        sigma: width of the Gaussian, in positions.
        count: K; distances from 0.
    """
    # With so many bits left of the last one, the sum of all has no more than float64 holds.
    grain = min(2.0 ** (math.ceil(math.log2(full_weight(sigma))) - 51), _COARSEST)
    return np.round(_bell(sigma, count) / grain) * grain


def full_weight(sigma: float) -> float:
    """The sum of all weights on a line that ends nowhere."""
    if sigma >= _WIDE:
        return math.sqrt(2 * math.pi) * sigma
    return 2 * float(_bell(sigma, math.ceil(9 * _WIDE)).sum()) - 1


@lru_cache(maxsize=64)
def sides(sigma: float, length: int, width: int) -> np.ndarray:
    """What the positions left of all that is decoded count, and those right of it: float64 [2, G].

    Args:
        sigma: width of the Gaussian, in positions.
        length: new positions; so many are on each side.
        width: G; offsets from ``length`` on have none.
    """
    upto_K = np.concatenate([[0.0], np.cumsum(weights_by_distance(sigma, 2 * length))])
    sides_2G, offset = np.zeros((2, width)), np.arange(length)
    sides_2G[0, :length] = upto_K[offset + 1 + length] - upto_K[offset + 1]
    sides_2G[1, :length] = upto_K[2 * length - offset] - upto_K[length - offset]
    return sides_2G


def _bell(sigma: float, count: int) -> np.ndarray:
    # One by one: where a vector of them is computed, the last bit may depend on how long it is.
    return np.array([math.exp(-0.5 * (d / sigma) * (d / sigma)) for d in range(count)])


def around(sigma: float, new: int) -> np.ndarray:
    """What a decided position counts for each of G on both sides of it: float64 [2G-1]."""
    weights_G = weights_by_distance(sigma, new)
    return np.concatenate([weights_G[:0:-1], weights_G])


def certainty_density(decided_G: np.ndarray, sigma: float) -> np.ndarray:
    """How much of what is near each new position is decided: float64 [G], 0 to 1.

    Args:
        decided_G: bool, what is no mask.
        sigma: width of the Gaussian, in positions.
    """
    new = len(decided_G)
    left_G, right_G = sides(sigma, new, new)
    inside_X = np.convolve(decided_G.astype(np.float64), around(sigma, new), "full")
    inside_G = inside_X[new - 1 : 2 * new - 1]
    return (inside_G + left_G + decided_G[-1] * right_G) * (1 / full_weight(sigma))
