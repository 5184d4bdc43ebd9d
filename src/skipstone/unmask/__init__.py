"""Unmask policies: what is committed in a step."""

from skipstone.unmask.base import UnmaskPolicy, UnmaskSession
from skipstone.unmask.factor import Factor
from skipstone.unmask.fixed import Fixed
from skipstone.unmask.scores import HostScores, Need, Scores
from skipstone.unmask.threshold import Threshold

__all__ = [
    "Factor",
    "Fixed",
    "HostScores",
    "Need",
    "Scores",
    "Threshold",
    "UnmaskPolicy",
    "UnmaskSession",
]
