"""The files of a trace: plain ones, inside its folder. A trace comes from somewhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from skipstone.errors import TraceError
from skipstone.record.damage import reason
from skipstone.record.store import DATABASE, MANIFEST, SHARDS

LOG, INDEX, JOURNAL = (f"{DATABASE}{suffix}" for suffix in ("-wal", "-shm", "-journal"))

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
}
# A smaller file does no harm, however little of it is on the disk. Of what file systems compress,
# they keep at least a 32nd.
_SPARSE_FROM, _COMPRESSED = 1 << 26, 32


def check_files(folder: Path) -> None:
    """Refuse a trace in which something else than plain files would be opened, or written to.

    Raises:
        TraceError: a file is a link, a pipe or a device, or is one that no trace has.
    """
    for name in (MANIFEST, DATABASE):
        plain_file(folder / name)
    for name in (LOG, INDEX):
        found = plain_file(folder / name)
        if found is not None and found.st_nlink > 1:
            raise TraceError(
                f"{str(folder / name)!r} has a second name elsewhere (a hard link), and SQLite may "
                f"write to it; copy the trace, or remove that file"
            )
    if plain_file(folder / JOURNAL) is not None:
        raise TraceError(
            f"{str(folder / JOURNAL)!r} is no file of a trace, and SQLite would change the trace "
            f"by it; remove it, or copy the trace again"
        )
    _lstat(folder / SHARDS, stat.S_IFDIR)


def plain_file(path: Path) -> os.stat_result | None:
    """What the system says of a file of a trace; None if there is none.

    Raises:
        TraceError: it is no plain file, or it claims far more bytes than are on the disk.
    """
    found = _lstat(path, stat.S_IFREG)
    if found is None:
        return None
    on_disk = 512 * getattr(found, "st_blocks", found.st_size)
    if found.st_size > max(_SPARSE_FROM, _COMPRESSED * on_disk):
        raise TraceError(
            f"{str(path)!r} claims {found.st_size} bytes, but only {on_disk} lie on the "
            f"disk: it is mostly a hole; copy it again"
        )
    return found


def read_small(path: Path, limit: int) -> str:
    """A small text file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or no UTF-8.
    """
    # Not to be followed or waited for, if it has become a link or a pipe since it was looked at.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    return raw.decode()


def _lstat(path: Path, kind: int) -> os.stat_result | None:
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    # The system refuses to look: a name that is too long or holds a NUL, a folder that is closed.
    except (OSError, ValueError) as error:
        raise TraceError(f"{str(path)!r} cannot be looked at ({reason(error)})") from None
    if stat.S_IFMT(found.st_mode) != kind:
        what = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise TraceError(
            f"{str(path)!r} is {what}, must be {_KINDS[kind]}: a trace is read from its own folder "
            f"alone; copy the trace with its links followed (cp -rL)"
        )
    return found
