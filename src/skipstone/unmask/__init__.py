"""Unmask policies: what is committed in a step."""

from skipstone.unmask.base import Scores, UnmaskPolicy, UnmaskSession
from skipstone.unmask.policies import Factor, Fixed, Threshold

__all__ = ["Factor", "Fixed", "Scores", "Threshold", "UnmaskPolicy", "UnmaskSession"]
