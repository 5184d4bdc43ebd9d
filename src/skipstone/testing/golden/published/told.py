"""Outcomes that tell by which forward each token was there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenAnswer, commits_of


def answer(expect: Mapping[str, Any], new: int | None = None) -> GoldenAnswer:
    """Tokens, forwards, and what each forward committed.

    Args:
        expect: ``tokens``, ``nfe``, and in ``commit`` the forward of each token.
        new: how many tokens were decoded, where others were filled in; None: all.
    """
    tokens, forwards = expect["tokens"][:new], expect["nfe"]
    steps = [list[tuple[int, int]]() for _ in range(forwards)]
    for offset, (token, forward) in enumerate(zip(tokens, expect["commit"], strict=False)):
        steps[forward].append((offset, token))
    return GoldenAnswer(tuple(tokens), forwards, commits_of(steps))
