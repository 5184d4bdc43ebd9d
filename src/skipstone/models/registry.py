"""Find a model by name: the embedded one, a directory, or the local hub cache."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from skipstone.errors import CheckpointError
from skipstone.files import one_line
from skipstone.models.checkpoint import find_shards

EMBEDDED = "pebble"
_FILES = ["*.safetensors", "*.json", "*.jinja"]
# Seconds until a hub that does not answer counts as absent.
_PATIENCE = 2.0


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
    directory = _directory(name)
    if directory is not None:
        return directory
    if isinstance(name_or_dir, Path) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(
            f"model {name!r} not found: it is no directory; use {EMBEDDED!r}, a directory, or a "
            f"hub name such as 'GSAI-ML/LLaDA-8B-Instruct'"
        )
    return _from_hub(name)


def _directory(name: str) -> Path | None:
    if not name:
        return None
    try:
        directory = Path(name).expanduser()
        if directory.is_dir():
            return directory
        exists = directory.exists()
    # The system refuses to look up some names: too long, a NUL, an unknown home.
    except (OSError, ValueError, RuntimeError):
        return None
    if exists:
        raise CheckpointError(f"{name} is a file; give the directory that holds config.json")
    return None


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        raise CheckpointError(
            f"model {name!r} is no directory, and for hub names huggingface_hub is missing; run: "
            f"pip install 'skipstone[hub]'"
        ) from None
    try:
        cached = Path(snapshot_download(name, allow_patterns=_FILES, local_files_only=True))
        find_shards(cached)
        return cached
    except LocalEntryNotFoundError:
        state = "not in the local hub cache"
    except CheckpointError:
        state = "incomplete in the local hub cache"
    except ValueError as error:
        raise CheckpointError(
            f"model {name!r} is neither a directory nor a hub name ({one_line(error)}); write "
            f"'organisation/model'"
        ) from None
    try:
        # Asked first and once: a download waits and tries again on a network that never answers.
        HfApi().repo_info(name, timeout=_PATIENCE)
        return Path(snapshot_download(name, allow_patterns=_FILES))
    # The client also raises the errors of its transport; each means that it is not to be had.
    except Exception as error:
        raise CheckpointError(
            f"model {name!r} is no directory, {state}, and cannot be downloaded "
            f"({one_line(error)}); on a machine with access run: hf download {name}"
        ) from None
