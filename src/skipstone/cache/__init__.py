"""Cache policies: which rows are recomputed in a step."""

from skipstone.cache.base import CacheNeed, CachePolicy, CacheSession, StepTaken
from skipstone.cache.policies import DualCache, NoCache, PrefixCache

__all__ = [
    "CacheNeed",
    "CachePolicy",
    "CacheSession",
    "DualCache",
    "NoCache",
    "PrefixCache",
    "StepTaken",
]
