"""Skip policies: which rows go on past a layer."""

from skipstone.skip.base import Bar, SkipPolicy, SkipReplay, SkipScores, SkipSession
from skipstone.skip.policies import CosineSkip, NoSkip
from skipstone.skip.ratio import RatioSkip

__all__ = [
    "Bar",
    "CosineSkip",
    "NoSkip",
    "RatioSkip",
    "SkipPolicy",
    "SkipReplay",
    "SkipScores",
    "SkipSession",
]
