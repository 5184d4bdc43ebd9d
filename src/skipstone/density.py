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


def _bell(sigma: float, count: int) -> np.ndarray:
    return np.exp(-0.5 * np.square(np.arange(count) / sigma))


def certainty_density(decided_G: np.ndarray, sigma: float) -> np.ndarray:
    """How much of what is near each new position is decided: float64 [G], 0 to 1.

    Args:
        decided_G: bool, what is no mask.
        sigma: width of the Gaussian, in positions.
    """
    new = len(decided_G)
    weights_K = weights_by_distance(sigma, 2 * new)
    weights_K = weights_K[: np.count_nonzero(weights_K)]
    reach = len(weights_K) - 1
    right = decided_G[-1:].repeat(new)
    line = np.concatenate([np.ones(new), decided_G, right]).astype(np.float64)
    bell = np.concatenate([weights_K[:0:-1], weights_K])
    return np.convolve(line, bell, "full")[reach + new : reach + 2 * new] / full_weight(sigma)
