"""Outputs are whole or absent: a file or folder is written beside its place, and renamed.

While ``report.html`` is written it is ``.report.html.part``, locked by its writer. A process that
is killed leaves that name, which nobody takes for a report; its lock is gone with it, and the next
writer of the same output puts its own in its place.

A link is followed, a pipe or a device is written to, and an existing file keeps its permissions.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from skipstone.errors import OutputError
from skipstone.quoting import whole_characters

_PROBE = bytes(1 << 16)
_LONGEST_NAME = 255


def check_output(path: Path, *, replace: bool = True) -> None:
    """Refuse before the work what could not be written after it. Leaves nothing behind.

    Args:
        path: where a file or a new folder is to be.
        replace: whether it may be a file that exists.

    Raises:
        OutputError: it is a folder, is write-protected, lies in no folder, on a full disk, or is
            being written by another process.
    """
    with _named(path):
        if _is_stream(path):
            _check_stream(path)
            return
        with _part(_target(path, replace=replace), _make_file) as (_, descriptor):
            _probe(descriptor)


def check_apart(paths: Mapping[str, Path | None]) -> None:
    """Refuse two options that name one file, of which one would be lost.

    Args:
        paths: by the option that names them; inputs may be among them.

    Raises:
        OutputError: two are the same file.
    """
    seen = dict[Path, str]()
    for option, path in paths.items():
        if path is None or _is_stream(path):
            continue
        real = Path(os.path.realpath(path))
        if real in seen:
            raise OutputError(
                f"{seen[real]} and {option} are both {str(path)!r}, and one would replace the "
                f"other; give each its own file"
            )
        seen[real] = option


@contextmanager
def whole_file(path: Path, *, replace: bool = True) -> Generator[Path, None, None]:
    """Write a file in one go: at no time does anybody see half of it.

    Args:
        path: where it is to be.
        replace: whether a file that exists gives way.

    Yields:
        The path to write to; the file is empty.

    Raises:
        OutputError: it cannot be written; what was there before still is.
    """
    with _named(path):
        if _is_stream(path):
            with tempfile.TemporaryDirectory() as folder:
                beside = Path(folder, "output")
                yield beside
                _pour(beside, path)
            return
        target = _target(path, replace=replace)
        with _part(target, _make_file) as (part, descriptor):
            if target.exists():
                os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
            yield part
            os.fsync(descriptor)
            os.replace(part, target)
            _sync_folder(target.parent)


@contextmanager
def whole_folder(path: Path) -> Generator[Path, None, None]:
    """Make a new folder in one go: it appears when all that is in it is on the disk.

    Args:
        path: where it is to be; nothing may be there.

    Yields:
        The folder to write to; it is empty.

    Raises:
        OutputError: it cannot be made, and nothing is there.
    """
    with _named(path):
        target = _target(path, replace=False)
        with _part(target, _make_folder) as (part, descriptor):
            yield part
            for file in part.rglob("*"):
                with file.open("rb") if file.is_file() else _opened_folder(file) as opened:
                    os.fsync(opened)
            os.fsync(descriptor)
            os.rename(part, target)
            _sync_folder(target.parent)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file of known content in one go; text as UTF-8, half a character as an escape.

    Raises:
        OutputError: it cannot be written; what was there before still is.
    """
    with whole_file(path) as part:
        raw = content if isinstance(content, bytes) else whole_characters(content).encode()
        part.write_bytes(raw)


@contextmanager
def one_writer(path: Path) -> Generator[None, None, None]:
    """Keep other processes from what is written to again and again, until the end of the block.

    Args:
        path: a file, which need not be there, or a folder.

    Raises:
        OutputError: another process is at it, or it cannot be opened.
    """
    if _is_stream(path):
        yield
        return
    with _named(path):
        how = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR | os.O_CREAT
        descriptor = os.open(path, how, 0o666)
    try:
        with _named(path):
            _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def check_append(path: Path) -> None:
    """Refuse a file to which nothing can be appended. Its content stays as it is.

    Raises:
        OutputError: it is no file, is write-protected, or lies on a full disk.
    """
    with _named(path), path.open("ab") as file:
        size = file.seek(0, os.SEEK_END)
        try:
            _probe(file.fileno())
        finally:
            file.truncate(size)


def is_part(path: Path) -> bool:
    """Whether a file is what a killed process left, or what another one is writing now."""
    return path.name.startswith(".") and path.name.endswith(".part")


# --- where it goes --------------------------------------------------------------------------------


def _target(path: Path, *, replace: bool) -> Path:
    """The place itself, with links followed, if something may be put there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        found = None
    except ValueError:  # a NUL character, or half of one
        raise OSError(0, "no file can have this name") from None
    if found is not None and not replace:
        raise OutputError(
            f"{str(path)!r} exists already, and is never overwritten; choose another path, or "
            f"remove it first"
        )
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(0, "it is a folder")
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise OSError(0, "it is no file")
    if found is None:
        path.parent.stat()  # realpath takes "missing/.." for here
    target = Path(os.path.realpath(path))
    effective = os.access in os.supports_effective_ids
    if found is not None and not os.access(target, os.W_OK, effective_ids=effective):
        raise PermissionError(0, "it is write-protected")
    return target


@contextmanager
def _named(path: Path) -> Generator[None, None, None]:
    """Turn what the system says into an error that names the output."""
    try:
        yield
    except BlockingIOError:
        raise OutputError(
            f"{str(path)!r} is being written by another process; wait for it, or give another path"
        ) from None
    except OSError as error:
        raise OutputError(
            f"{str(path)!r} cannot be written ({error.strerror or error}); check that its folder "
            f"exists, can be written to and has space, or give another path"
        ) from None


# --- the part beside it ---------------------------------------------------------------------------


@contextmanager
def _part(target: Path, make: Callable[[Path], int]) -> Generator[tuple[Path, int], None, None]:
    """A new, empty part of ours, and its open descriptor; gone in the end, unless renamed."""
    name = f".{target.name}.part"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.part"
    part = target.with_name(name)
    descriptor = _claim(part, make)
    try:
        yield part, descriptor
    finally:
        # Only ours: after the rename the name is free for others.
        if _lies_at(descriptor, part):
            _remove(part)
        os.close(descriptor)


def _claim(part: Path, make: Callable[[Path], int]) -> int:
    """Make the part and lock it, instead of one whose writer was killed.

    Raises:
        BlockingIOError: its writer lives.
    """
    while True:
        try:
            descriptor = make(part)
        except FileExistsError:
            _remove_left(part)
            continue
        with suppress(BlockingIOError):
            _lock(descriptor)
        # Another process may have taken it for left, before it was locked.
        if _lies_at(descriptor, part):
            return descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock it, until it is closed; where there are no locks there is no protection.

    Raises:
        BlockingIOError: another process has locked it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass


def _make_file(part: Path) -> int:
    return os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _make_folder(part: Path) -> int:
    part.mkdir()
    return os.open(part, os.O_RDONLY | os.O_DIRECTORY)


def _remove_left(part: Path) -> None:
    """Remove what a killed process left; not what a living one writes."""
    try:
        descriptor = os.open(part, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _lies_at(descriptor, part):
            _remove(part)
    finally:
        os.close(descriptor)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink()


def _lies_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that has a name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


# --- the disk -------------------------------------------------------------------------------------


def _probe(descriptor: int) -> None:
    """Find out now whether the disk takes more."""
    left = _PROBE
    while left:  # what is almost full takes a part of it first
        left = left[os.write(descriptor, left) :]
    os.fsync(descriptor)


@contextmanager
def _opened_folder(folder: Path) -> Generator[int, None, None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """The new name survives a loss of power, where the file system promises that at all."""
    with suppress(OSError), _opened_folder(folder) as descriptor:
        os.fsync(descriptor)


# --- pipes and devices ----------------------------------------------------------------------------


def _is_stream(path: Path) -> bool:
    """Whether a path is a pipe, a terminal, a device such as /dev/null, or our own output."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return False
    kind = found.st_mode
    return stat.S_ISCHR(kind) or stat.S_ISFIFO(kind) or _standard(found) is not None


def _standard(found: os.stat_result) -> int | None:
    """Standard output or error, if a path is one of them."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), found):
                return descriptor
    return None


def _open_stream(path: Path) -> int:
    """Open for writing. A pipe that nobody reads is an error, and no reason to wait."""
    standard = _standard(path.stat())
    if standard is not None:
        return os.dup(standard)
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    os.set_blocking(descriptor, True)
    return descriptor


def _check_stream(path: Path) -> None:
    """A device may refuse even nothing; a pipe's reader would take our closing it for the end."""
    if stat.S_ISCHR(path.stat().st_mode):
        descriptor = _open_stream(path)
        try:
            os.write(descriptor, b"")
        finally:
            os.close(descriptor)


def _pour(file: Path, path: Path) -> None:
    sys.stdout.flush()
    with file.open("rb") as source, os.fdopen(_open_stream(path), "wb") as sink:
        shutil.copyfileobj(source, sink)
