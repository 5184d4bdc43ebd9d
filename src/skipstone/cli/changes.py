"""Committed tokens that were replaced or taken back, as ``show`` tells them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from skipstone.cli.tokens import Tokens
from skipstone.record import StepRecord

V = TypeVar("V")


class Changes(NamedTuple):
    """Which columns of them have something to say, and are there."""

    edits: bool
    """Of tokens that were replaced."""
    revokes: bool
    """Of tokens that became masks again."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of these columns."""
        return self.cells("edited", "taken back")

    def cells(self, edited: V, revoked: V) -> tuple[V, ...]:
        """The cells of these columns."""
        return (*((edited,) if self.edits else ()), *((revoked,) if self.revokes else ()))


def changes_of(steps: Sequence[StepRecord]) -> Changes:
    """The columns of some steps."""
    revokes = any(step.revoked for step in steps)
    return Changes(any(len(step.edited) > len(step.revoked) for step in steps), revokes)


def changes_told(step: StepRecord, tokens: Tokens) -> Iterator[tuple[str, str]]:
    """Label and words of what a step replaced, and of what it took back."""
    edited = [position for position in step.edited if position not in step.revoked]
    if edited:
        yield "edited", ", ".join(_edit(step, position, tokens) for position in edited)
    if step.revoked:
        yield "taken back", ", ".join(_revoked(step, at, tokens) for at in step.revoked)


def _edit(step: StepRecord, position: int, tokens: Tokens) -> str:
    """A token that was replaced, and by what."""
    after = int(step.ids_after[position - step.prompt_length])
    return f"{position} from {_before(step, position, tokens)} to {tokens(after)}"


def _revoked(step: StepRecord, position: int, tokens: Tokens) -> str:
    """A token that became a mask again, and how probable it was."""
    said = f"{position} {_before(step, position, tokens)}"
    candidate = step.candidates.at(position)
    return said if candidate is None else f"{said} ({candidate.confidence:.4g} unseen)"


def _before(step: StepRecord, position: int, tokens: Tokens) -> str:
    return tokens(int(step.ids_before[position - step.prompt_length]))
