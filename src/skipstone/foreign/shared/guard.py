"""Nothing of ours may break the code that is watched: what goes wrong is said, once, at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch

from skipstone.errors import ForeignCodeWarning
from skipstone.record import Event


@dataclass(eq=False)
class Guard:
    """Runs our own code between the lines of somebody else's."""

    events: list[Event] = field(default_factory=list)
    """What was said and is still to be written down."""
    _said: set[tuple[str, str]] = field(default_factory=set)

    def say(self, event: Event) -> None:
        """Warn of something, the first time that it happens at its place."""
        if (event.kind, event.source) in self._said:
            return
        self._said.add((event.kind, event.source))
        self.events.append(event)
        # Who made warnings errors has the event; the run in between is not ours to break.
        with suppress(ForeignCodeWarning):
            warnings.warn(_sentence(event), ForeignCodeWarning, stacklevel=2)

    @contextmanager
    def within(self, doing: str, where: Callable[[], str]) -> Generator[None]:
        """Run a part of ours; whatever it raises is said instead.

        Args:
            doing: what the part does, as it stands in the sentence.
            where: asked for the user's line only if something goes wrong.
        """
        # Neither our own mode nor anybody else's sees what we compute.
        with torch.no_grad(), torch._C.DisableTorchFunction():
            try:
                yield
            except Exception as error:
                self.failed(doing, error, where)

    def failed(self, doing: str, error: Exception, where: Callable[[], str]) -> None:
        """Say what went wrong in a part of ours."""
        self.say(
            Event(
                kind="recording_failed",
                message=(
                    f"{doing} failed ({type(error).__name__}: {error}); the run goes on, and what "
                    f"depends on it is missing from the record"
                ),
                source=where(),
            )
        )


def _sentence(event: Event) -> str:
    return f"{event.source}: {event.message}" if event.source else event.message
