"""The commit rule that a loop really follows, found from what was recorded of its decisions."""

from skipstone.diagnosis.loop.difference import RuleDifference, difference, parted, same_scores
from skipstone.diagnosis.loop.finding import COMMIT_RULE, diagnosis_of, evidence_of, finding
from skipstone.diagnosis.loop.fit import Identified
from skipstone.diagnosis.loop.identify import identified, more_closely
from skipstone.diagnosis.loop.rule import SCHEDULES

__all__ = [
    "COMMIT_RULE",
    "SCHEDULES",
    "Identified",
    "RuleDifference",
    "diagnosis_of",
    "difference",
    "evidence_of",
    "finding",
    "identified",
    "more_closely",
    "parted",
    "same_scores",
]
