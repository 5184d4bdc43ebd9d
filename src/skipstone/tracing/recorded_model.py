"""The model that a trace names, which is the word of whoever wrote the trace."""

from __future__ import annotations

import re
from pathlib import Path

from skipstone.errors import CheckpointError, ConfigError
from skipstone.models.load import Model, load
from skipstone.models.registry import EMBEDDED
from skipstone.record import Header
from skipstone.record.damage import brief

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def recorded_model(header: Header) -> Model:
    """Load the model of a recorded run: the embedded one, or one in the local hub cache.

    A trace may come from a stranger. Because it says so, no hub is asked and no folder is opened:
    a folder could be anything that the user can read, on any disk that the system mounts for it.

    Raises:
        CheckpointError: the model is neither, or cannot be loaded.
    """
    name = header.model
    if name != EMBEDDED and (_HUB_NAME.fullmatch(name) is None or Path(name).exists()):
        raise CheckpointError(
            f"the trace names {brief(name)} as its model; no folder is opened because a trace says "
            f"so: if you know it, give it with --model, in Python as model=load(...)"
        )
    try:
        return load(name, dtype=header.dtype, local_files_only=True)
    except ConfigError as error:
        raise CheckpointError(f"the model of the trace cannot be loaded: {error}") from None
