"""Skip policies: which rows go on past a layer."""

from skipstone.skip.base import (
    Bar,
    Ranking,
    SkipPolicy,
    SkipReplay,
    SkipScores,
    SkipSession,
    StageRows,
)
from skipstone.skip.policies import CosineSkip, NoSkip
from skipstone.skip.ratio import RatioSkip

__all__ = [
    "Bar",
    "CosineSkip",
    "NoSkip",
    "Ranking",
    "RatioSkip",
    "SkipPolicy",
    "SkipReplay",
    "SkipScores",
    "SkipSession",
    "StageRows",
]
