"""Cases whose commits are recorded step by step, as those of all policies are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenAnswer, GoldenCase, commits_of


def stepwise(
    name: str, kind: str, case: Mapping[str, Any], settings: Mapping[str, str]
) -> GoldenCase:
    """A case under ``settings``; lengths and outcome are what is recorded."""
    return GoldenCase(
        name=name,
        kind=kind,
        prompt=tuple(case["prompt"]),
        settings={
            "gen_length": str(case["gen_length"]),
            "block_length": str(case["block_length"]),
            "eos_stop": "false",
            **settings,
        },
        wanted=GoldenAnswer(tuple(case["tokens"]), case["forwards"], commits_of(case["steps"])),
    )
