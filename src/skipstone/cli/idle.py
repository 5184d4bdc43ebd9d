"""What is given on a command line and has no effect: it is said, and stops nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipstone.cli.terminal import note

if TYPE_CHECKING:
    from skipstone.engine import Settings


def say_idle(*sentences: str) -> None:
    """Say once each what has no effect."""
    for sentence in dict.fromkeys(sentences):
        note(sentence)


def say_idle_settings(*runs: Settings) -> None:
    """The same of settings, for a command that does not print the notes of its results."""
    say_idle(*(sentence for settings in runs for sentence in settings.idle()))
