"""Masks in the order of a key other than their confidence: the first few, or all beyond a limit.

Shape letters: B requests, G generation length, C candidates of one request.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from skipstone.errors import ConfigError
from skipstone.unmask.ranking import rank_BG, ranks

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.unmask.scores import HostScores, Scores


def best_BG(key_BG: Tensor, scores: Scores, each: int, least: float | None) -> Tensor:
    """The offsets with the largest keys: ``each`` of them, or all from ``least`` on and the best.

    Returns:
        bool [B, G].
    """
    allowed_BG = scores.confidence_BG != -math.inf
    key_BG = key_BG.where(allowed_BG, -math.inf)
    ranks_BG = rank_BG(key_BG)
    if least is None:
        return (ranks_BG < each) & allowed_BG
    return ((key_BG >= least) | (ranks_BG == 0)) & allowed_BG


def best(key_C: np.ndarray, scores: HostScores, each: int, least: float | None) -> np.ndarray:
    """As ``best_BG``, on the host: bool [C]."""
    key_C = np.where(scores.allowed_C, key_C, -np.inf)
    rank_C = ranks(key_C)
    if least is None:
        return (rank_C < each) & scores.allowed_C
    return ((key_C >= least) | (rank_C == 0)) & scores.allowed_C


def check_each(name: str, each: int) -> None:
    """Refuse a number of masks that would commit nothing."""
    if each < 1:
        raise ConfigError(f"{name} each is {each}, must be at least 1")


def unused_each(each: int, by: str) -> tuple[str, ...]:
    """What is said of a number of masks, not the default of 1, where something else decides."""
    return () if each == 1 else (f"each={each} has no effect: {by} says how many are committed",)
