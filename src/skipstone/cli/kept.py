"""What experiments that are kept in a trace found, in one line each."""

from __future__ import annotations

import json
from typing import cast

from skipstone.quoting import cut
from skipstone.record import Experiment
from skipstone.sentence import counted

_MOST = 240


def experiment_line(experiment: Experiment) -> str:
    """An experiment or a verdict in words; its text as it stands, cut, if it is not one of ours."""
    found = _members(experiment.outcome)
    line = _verdict(found) if experiment.key == "diagnosis" else _run(found)
    return cut(f"{experiment.key}: {line or experiment.outcome}", _MOST)


def _verdict(found: dict[str, object]) -> str:
    """What a diagnosis says: the cause, its rule and its proof."""
    findings = found.get("findings")
    first = findings[0] if isinstance(findings, list) and findings else None
    if not isinstance(first, dict):
        return str(found.get("summary", ""))
    finding = cast("dict[str, object]", first)
    return f"{finding.get('what')} [{finding.get('rule')}], {finding.get('proof')}"


def _run(found: dict[str, object]) -> str:
    """How long a run of the engine was, and took."""
    seconds, steps = found.get("seconds"), str(found.get("outcome", "")).removesuffix(" steps")
    if not isinstance(seconds, float) or not (steps.isascii() and steps.isdigit()):
        return ""
    return f"{counted(int(steps[:9]), 'step')}, {seconds:.2f} s"


def _members(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
