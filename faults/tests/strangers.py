"""Cases of other people's code as parameters of a test."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from faults.foreign import Stranger


def named(stranger: Stranger) -> str:
    return f"{stranger.style}-{stranger.name}"


def one_style_each(strangers: Sequence[Stranger]) -> list[object]:
    """Each fault in one style, the styles in turn; in the others only ``make test-long`` asks."""
    names = list(dict.fromkeys(stranger.name for stranger in strangers))
    chosen = set[str]()
    for turn, name in enumerate(names):
        styles = [named(stranger) for stranger in strangers if stranger.name == name]
        chosen.add(styles[turn % len(styles)])
    return [
        pytest.param(s, id=named(s), marks=() if named(s) in chosen else pytest.mark.long)
        for s in strangers
    ]
