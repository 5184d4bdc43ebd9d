"""The errors Skipstone raises on purpose.

    SkipstoneError              everything below; the command line prints it as one line
    ├── ConfigError             a setting is wrong (also a ValueError)
    ├── CheckpointError         files of a model are missing, broken or not supported
    ├── PromptError             a prompt cannot be encoded or does not fit (also a ValueError)
    ├── StalledError            decoding made no progress twice in a row
    ├── DeadlockError           whoever decodes a request waits for it
    ├── NotFiniteError          a forward gave a number that is not finite
    ├── PolicyError             code of a policy raised an error, or gave what it must not
    ├── TraceError              a trace cannot be written or opened
    └── OutputError             a file or folder of results cannot be written

``ForeignCodeWarning`` is a warning: other people's code goes on, whatever we cannot make of it.

A message names the value, the rule it breaks and the remedy. An ``assert`` marks our own mistakes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from skipstone.quoting import within


class SkipstoneError(Exception):
    """Base of all errors that are meant to be read by the user: in one line, without a traceback.

    What it says has at most 480 characters; ``args`` has all of it.
    """

    def __str__(self) -> str:
        """The message; long values in it lose their middle."""
        return within(" ".join(super().__str__().splitlines()))


class ConfigError(SkipstoneError, ValueError):
    """A setting is unknown, of the wrong type or outside its range."""


class CheckpointError(SkipstoneError):
    """A model directory cannot be loaded: missing, broken or unsupported files."""


class PromptError(SkipstoneError, ValueError):
    """A prompt is empty, too long, or holds ids that the model does not have."""


class NoRoomError(SkipstoneError):
    """Keys and values would need more memory than there is, or than the engine may take."""


class StalledError(SkipstoneError):
    """Two steps in a row committed nothing, the second one over all rows without skip."""


class DeadlockError(SkipstoneError, RuntimeError):
    """An observer or a policy waits, in the middle of a step, for what comes after it."""


class NotFiniteError(SkipstoneError):
    """A forward gave NaN or infinity where a token was to be chosen or scored.

    ``finished`` has the results of the other prompts of the batch that were done by then, by the
    index of the prompt; ``Result`` each.
    """

    def __init__(self, message: str, finished: Mapping[int, Any] | None = None) -> None:
        """Say what is not finite, and hand over what was done."""
        super().__init__(message)
        self.finished: Mapping[int, Any] = finished or {}


class PolicyError(SkipstoneError):
    """Code of a policy raised an error, which is its cause, or gave something else than it must."""


class TraceError(SkipstoneError):
    """A trace cannot be written, or what lies there is none, damaged or from a newer version."""


class OutputError(SkipstoneError):
    """What was found cannot be written where it is to go; what lies there is left alone."""


class ForeignCodeWarning(UserWarning):
    """Something of a run of other people's code could not be recorded, or not be located."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, else the list of names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}"
