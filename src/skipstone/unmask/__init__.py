"""Unmask policies: what is committed in a step."""

from skipstone.unmask.base import (
    NarrowingSession,
    UnmaskPolicy,
    UnmaskSession,
    WeighingSession,
)
from skipstone.unmask.certainty import Certainty
from skipstone.unmask.credit import Credit
from skipstone.unmask.dinfer_threshold import DinferThreshold
from skipstone.unmask.dream_threshold import DreamThreshold
from skipstone.unmask.editing import Editing
from skipstone.unmask.entropy import Entropy
from skipstone.unmask.entropy_bound import EntropyBound
from skipstone.unmask.factor import Factor
from skipstone.unmask.falling_threshold import FallingThreshold
from skipstone.unmask.fixed import Fixed
from skipstone.unmask.frechet import Frechet
from skipstone.unmask.hierarchical import Hierarchical
from skipstone.unmask.klass import Klass
from skipstone.unmask.local_leap import LocalLeap
from skipstone.unmask.margin import Margin
from skipstone.unmask.quota import Quota
from skipstone.unmask.scores import REVISING, HostScores, MaskLogits, Need, Scores
from skipstone.unmask.slow_fast import SlowFast
from skipstone.unmask.threshold import Threshold
from skipstone.unmask.wino import Wino

__all__ = [
    "REVISING",
    "Certainty",
    "Credit",
    "DinferThreshold",
    "DreamThreshold",
    "Editing",
    "Entropy",
    "EntropyBound",
    "Factor",
    "FallingThreshold",
    "Fixed",
    "Frechet",
    "Hierarchical",
    "HostScores",
    "Klass",
    "LocalLeap",
    "Margin",
    "MaskLogits",
    "NarrowingSession",
    "Need",
    "Quota",
    "Scores",
    "SlowFast",
    "Threshold",
    "UnmaskPolicy",
    "UnmaskSession",
    "WeighingSession",
    "Wino",
]
