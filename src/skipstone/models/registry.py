"""Find a model by name: the embedded one, a directory, or the local hub cache."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from skipstone.errors import CheckpointError

EMBEDDED = "pebble"
_FILES = ["*.safetensors", "*.json", "*.jinja"]


def find(name_or_dir: str | Path) -> Path:
    """The directory that holds a model's files.

    Args:
        name_or_dir: ``"pebble"``, a directory, or a hub name such as
            ``"GSAI-ML/LLaDA-8B-Instruct"``, taken from the local hub cache or downloaded.

    Raises:
        CheckpointError: there is no such model, or it is not here and cannot be downloaded.
    """
    name = str(name_or_dir)
    if name == EMBEDDED:
        return Path(str(importlib.resources.files("skipstone") / "data" / EMBEDDED))
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory
    if directory.exists():
        raise CheckpointError(f"{name} is a file; give the directory that holds config.json")
    if isinstance(name_or_dir, Path) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(
            f"model {name!r} not found: it is no directory; use {EMBEDDED!r}, a directory, or a "
            f"hub name such as 'GSAI-ML/LLaDA-8B-Instruct'"
        )
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise CheckpointError(
            f"model {name!r} is a hub name; run: pip install 'skipstone[hub]'"
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    except ValueError as error:
        raise CheckpointError(f"model {name!r} is no hub name ({error})") from None
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES, etag_timeout=3))
    # The client raises errors of its transport library too; each means that it is not to be had.
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"model {name!r} is not in the local cache and cannot be downloaded ({reason}); on a "
            f"machine with access run: hf download {name}"
        ) from None
