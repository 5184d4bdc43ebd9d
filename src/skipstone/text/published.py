"""Read the files of a checkpoint: regular ones, and none that is larger than such files are."""

from __future__ import annotations

import stat
from pathlib import Path

from skipstone.errors import CheckpointError
from skipstone.files import Json, read_json
from skipstone.quoting import one_line

_MEGABYTE = 1 << 20
MOST_SETTINGS = 32 * _MEGABYTE
"""Bytes of a file of settings. The longest published ones, with every added token, have a tenth."""


def check_size(path: Path, most: int) -> bool:
    """Whether a file is there.

    Raises:
        CheckpointError: it is no regular file, or larger than ``most`` bytes.
    """
    try:
        found = path.stat()
    except OSError:
        # The reader of a file that must be there says why it cannot be read.
        return False
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path} is not a file; copy it from the published checkpoint")
    if found.st_size > most:
        raise CheckpointError(
            f"{path} has {found.st_size / _MEGABYTE:.0f} MB, more than the {most // _MEGABYTE} MB "
            f"that such a file may have; copy it from the published checkpoint"
        )
    return True


def read_settings(path: Path) -> Json:
    """One JSON object; an empty one if there is no such file.

    Raises:
        CheckpointError: it is too large, or no JSON object.
    """
    return read_json(path) if check_size(path, MOST_SETTINGS) else {}


def read_published_text(path: Path, most: int) -> str:
    """A text file.

    Raises:
        CheckpointError: it is too large, or no text.
    """
    check_size(path, most)
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} cannot be read as text ({one_line(error)}); copy it from the published "
            f"checkpoint"
        ) from None
