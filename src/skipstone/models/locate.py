"""Find a model by name: the embedded one, a directory, or the local hub cache."""

from __future__ import annotations

import importlib.resources
import re
from contextlib import suppress
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from urllib.request import Request, urlopen

from skipstone.errors import CheckpointError
from skipstone.models.folder import find_shards
from skipstone.quoting import one_line, shown

EMBEDDED = "pebble"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILES = ["*.safetensors", "*.json", "*.jinja"]
# Seconds until a hub that does not answer counts as absent.
_PATIENCE = 3.0


def find(name_or_dir: str | Path, *, local_files_only: bool = False) -> Path:
    """The directory that holds a model's files.

    Args:
        name_or_dir: ``"pebble"``, a directory, or a hub name such as
            ``"GSAI-ML/LLaDA-8B-Instruct"``, taken from the local hub cache or downloaded.
        local_files_only: ask no hub: a name that is not in the local cache is not found. For names
            that the user did not write, such as those in a trace.

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
        meant = f"did you mean {EMBEDDED!r}? Else " if get_close_matches(name, [EMBEDDED]) else ""
        raise CheckpointError(
            f"model {shown(name)} not found: it is no directory; {meant}use {EMBEDDED!r}, a "
            f"directory, or a hub name such as 'GSAI-ML/LLaDA-8B-Instruct'"
        )
    cached, state = _cached(name)
    return cached or _downloaded(name, state, local_files_only=local_files_only)


def check_recorded(name: str) -> None:
    """Refuse a name that a trace gives, if a folder would be opened because of it.

    Raises:
        CheckpointError: it is neither the embedded model nor a hub name.
    """
    if name != EMBEDDED and (_HUB_NAME.fullmatch(name) is None or Path(name).exists()):
        raise CheckpointError(
            f"the trace names {shown(name)} as its model; no folder is opened because a trace says "
            f"so: if you know it, give it with --model, in Python as model=load(...)"
        )


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


def _cached(name: str) -> tuple[Path | None, str]:
    """A complete copy in the local hub cache, or what is wrong with it."""
    # Here, because the embedded model and directories do without it: it takes a quarter second.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, allow_patterns=_FILES, local_files_only=True))
        find_shards(cached)
        return cached, ""
    except LocalEntryNotFoundError:
        return None, "not in the local hub cache"
    except CheckpointError:
        return None, "incomplete in the local hub cache"
    except ValueError as error:
        raise CheckpointError(
            f"model {shown(name)} is neither a directory nor a hub name ({one_line(error)}); write "
            f"'organisation/model'"
        ) from None


def _downloaded(name: str, state: str, *, local_files_only: bool) -> Path:
    from huggingface_hub import constants, snapshot_download

    try:
        if local_files_only:
            raise OSError("only local files are asked for")
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        _wait_for(constants.ENDPOINT)
        return Path(snapshot_download(name, allow_patterns=_FILES))
    # The client also raises the errors of its transport; each means that it is not to be had.
    except Exception as error:
        raise CheckpointError(
            f"model {shown(name)} is no directory, {state}, and cannot be downloaded "
            f"({one_line(error)}); on a machine with access run: hf download {name}"
        ) from None


def _wait_for(endpoint: str) -> None:
    """Ask the hub for a sign of life; its client would wait long, and more than once.

    Raises:
        TimeoutError: it says nothing, not even that there is no connection.
    """
    # In a thread, because looking up a name cannot be given a time limit.
    thread = Thread(target=_ask, args=(endpoint,), daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if thread.is_alive():
        raise TimeoutError(f"{endpoint} does not answer within {_PATIENCE:g} s")


def _ask(endpoint: str) -> None:
    # Any answer will do, an error too: the client then says better what is wrong.
    with suppress(OSError, HTTPException, ValueError):
        urlopen(Request(endpoint, method="HEAD"), timeout=2 * _PATIENCE).close()
