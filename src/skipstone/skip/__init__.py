"""Skip policies: which rows go on past a layer."""

from skipstone.skip.base import SkipPolicy, SkipScores, SkipSession
from skipstone.skip.policies import CosineSkip, NoSkip

__all__ = ["CosineSkip", "NoSkip", "SkipPolicy", "SkipScores", "SkipSession"]
