"""What calls have in common: parameters that must be neutral, and outcomes token by token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenAnswer, InexpressibleError, commits_of


def check_only(params: Mapping[str, Any], **known: tuple[object, ...]) -> None:
    """Refuse parameters whose values ask for what is not compared.

    Args:
        params: of a call.
        known: by name of a parameter, the values that change nothing; one left out is such.

    Raises:
        InexpressibleError: one has another value.
    """
    for name, values in known.items():
        if name in params and params[name] not in values:
            only = " or ".join(map(repr, values))
            raise InexpressibleError(f"{name} is {params[name]!r}, and only {only} is compared")


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
