"""Cache policies: which rows are recomputed in a step."""

from skipstone.cache.base import CachePolicy
from skipstone.cache.policies import DualCache, NoCache, PrefixCache

__all__ = ["CachePolicy", "DualCache", "NoCache", "PrefixCache"]
