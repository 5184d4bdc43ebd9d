"""A recorded case as the engine is asked: a prompt, settings as texts, and what must come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skipstone.errors import SkipstoneError

Commits = tuple[tuple[int, int], ...]
"""What one forward committed: offset behind the prompt and token, ascending."""


class InexpressibleError(SkipstoneError):
    """No public setting of the engine says what a recorded case did."""


@dataclass(frozen=True)
class GoldenAnswer:
    """What published code gave."""

    tokens: tuple[int, ...]
    """Behind the prompt, as far as they were decoded: not what a stop filled in."""
    forwards: int | None = None
    """As many as it took; fewer are welcome. None if it counts otherwise."""
    commits: tuple[Commits, ...] | None = None
    """Of every forward that committed something; None if they were not recorded."""
    is_cut: bool = False
    """Whether more may have been decoded than published code returns, as behind a stop id."""


@dataclass(frozen=True)
class GoldenCase:
    """One run of published code."""

    name: str
    """Where it stands: folder, number and, where one case has several, which."""
    kind: str
    """What was run; misses are counted by it."""
    prompt: tuple[int, ...]
    settings: Mapping[str, str]
    """As the command line takes them."""
    wanted: GoldenAnswer
    delays_eos: bool = False
    """Whether published code gave EOS the probability 0 right of a mask of its block, as long as
    there was none. No setting does: where that is more than a word, the case is a miss."""


@dataclass(frozen=True)
class Inexpressible:
    """A case that the engine cannot be asked for."""

    name: str
    kind: str
    reason: str


def commits_of(steps: Sequence[Sequence[Sequence[int]]]) -> tuple[Commits, ...]:
    """Recorded steps, lists of ``[offset, token]``; those that changed nothing are left out."""
    return tuple(tuple(sorted((at, token) for at, token in step)) for step in steps if step)
