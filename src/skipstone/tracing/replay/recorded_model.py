"""The model that a trace names, which is the word of whoever wrote the trace."""

from __future__ import annotations

from skipstone.errors import CheckpointError, ConfigError
from skipstone.models import locate
from skipstone.models.load import Model, load
from skipstone.record import Header


def recorded_model(header: Header) -> Model:
    """Load the model of a recorded run: the embedded one, or one in the local hub cache.

    A trace may come from a stranger. Because it says so, no hub is asked and no folder is opened:
    a folder could be anything that the user can read, on any disk that the system mounts for it.

    Raises:
        CheckpointError: the model is neither, or cannot be loaded.
    """
    locate.check_recorded(header.model)
    try:
        return load(header.model, dtype=header.dtype, local_files_only=True)
    except ConfigError as error:
        raise CheckpointError(f"the model of the trace cannot be loaded: {error}") from None
