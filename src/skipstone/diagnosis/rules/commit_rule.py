"""31: the loops follow different commit rules."""

from __future__ import annotations

from skipstone.diagnosis.loop import COMMIT_RULE
from skipstone.diagnosis.rule import Rule, of_the_loop

RULE = Rule(
    31,
    COMMIT_RULE,
    "commit rules differ",
    lambda case: of_the_loop(case, COMMIT_RULE, 31),
)
