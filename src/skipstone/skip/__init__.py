"""Skip policies: which rows go on past a layer."""

from skipstone.skip.base import Bar, SkipPolicy, SkipReplay, SkipScores, SkipSession
from skipstone.skip.policies import CosineSkip, NoSkip

__all__ = [
    "Bar",
    "CosineSkip",
    "NoSkip",
    "SkipPolicy",
    "SkipReplay",
    "SkipScores",
    "SkipSession",
]
