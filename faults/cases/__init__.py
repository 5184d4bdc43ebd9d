"""All faults, with the settings at which each acts and the truth about it.

Numbers are those of docs/diagnoses.md. Where a setting can be the cause, there is a case without
injected code too.
"""

from __future__ import annotations

from faults.cases.arithmetic import OF_ARITHMETIC
from faults.cases.cache import OF_CACHE
from faults.cases.choice import OF_CHOICE
from faults.cases.decisions import OF_DECISIONS
from faults.cases.skip import OF_SKIP
from faults.specimen import Specimen

SPECIMENS: tuple[Specimen, ...] = (*OF_SKIP, *OF_DECISIONS, *OF_CACHE, *OF_CHOICE, *OF_ARITHMETIC)
