"""Where traces lie: folders named by their ids, of which the oldest give way.

All of it waits for the disk: it is called from threads, never from the event loop.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from skipstone.errors import OutputError, SkipstoneError, TraceError
from skipstone.quoting import shown
from skipstone.record import MemoryTrace, open_trace
from skipstone.record.copied import write_trace
from skipstone.record.store import DATABASE, MANIFEST, SHARDS
from skipstone.server.options import ServerOptions
from skipstone.server.protocol.common import new_id
from skipstone.server.protocol.errors import AnswerError
from skipstone.server.protocol.traces import TraceCard

# As new_id gives them: of 122 random bits, so that nobody finds the trace of another one by chance.
_ID = re.compile(r"trace-[0-9a-f]{32}")


class KeptTraces:
    """The traces of one server, within a number of traces and of bytes."""

    def __init__(self, options: ServerOptions) -> None:
        """Nothing is written before the first trace is kept."""
        self.most = options.keep_traces
        self._most_bytes, self._given = options.trace_space, options.traces
        self._own: tempfile.TemporaryDirectory[str] | None = None
        # Nobody reads a trace that gives way meanwhile, and nobody sees half of one.
        self._lock = threading.Lock()

    def keep(self, trace: MemoryTrace) -> str:
        """Write a trace down; the oldest ones give way. Its id.

        Raises:
            SkipstoneError: the disk refuses it, or it is larger than all traces may be.
        """
        name = new_id("trace")
        with self._lock, self._named():
            folder = self._folder()
            try:
                write_trace(trace, folder / name)
                if (size := _bytes(folder / name)) > self._most_bytes:
                    raise OutputError(
                        f"it takes {size} bytes, more than the {self._most_bytes} of --trace-space"
                    )
            except BaseException:
                shutil.rmtree(folder / name, ignore_errors=True)
                raise
            self._make_room()
        return name

    def cards(self) -> list[TraceCard]:
        """What there is, the newest first."""
        with self._lock, self._named():
            return [_card(path) for path in reversed(self._paths())]

    def check(self, *names: str) -> None:
        """See that traces are there.

        Raises:
            AnswerError: there is none of an id.
        """
        with self._lock, self._named():
            for name in names:
                self._find(name)

    def copy(self, name: str, to: Path) -> None:
        """Copy a trace into a folder, under its id.

        Raises:
            AnswerError: there is none of this id.
        """
        with self._lock, self._named():
            shutil.copytree(self._find(name), to / name)

    def pack(self, name: str) -> BinaryIO:
        """A trace as an open file without a name, a zip of its folder; gone when it is closed.

        Raises:
            AnswerError: there is none of this id.
        """
        with self._lock, self._named():
            folder = self._find(name)
            # Whoever sends it closes it.
            packed = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115
            try:
                with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as to:
                    for path in (folder / MANIFEST, folder / DATABASE, folder / SHARDS):
                        to.write(path, f"{name}/{path.name}")
                    for path in sorted((folder / SHARDS).iterdir()):
                        to.write(path, f"{name}/{SHARDS}/{path.name}")
            except BaseException:
                packed.close()
                raise
        return packed

    def close(self) -> None:
        """Remove what nobody has named a place for."""
        with self._lock:
            if self._own is not None:
                self._own.cleanup()

    def _folder(self) -> Path:
        """Where they lie; nobody else may read there."""
        if self._given is not None:
            self._given.mkdir(mode=0o700, parents=True, exist_ok=True)
            return self._given
        # Systems remove from there what is old, also under a server that runs.
        if self._own is not None and not Path(self._own.name).is_dir():
            self._own.cleanup()
            self._own = None
        if self._own is None:
            self._own = tempfile.TemporaryDirectory(prefix="skipstone-traces-")
        return Path(self._own.name)

    def _paths(self) -> list[Path]:
        """Folders of all traces, the oldest first."""
        if self._given is None and self._own is None:
            return []
        found = [path for path in self._folder().iterdir() if _ID.fullmatch(path.name)]
        return sorted(found, key=lambda path: (_written(path), path.name))

    def _find(self, name: str) -> Path:
        """The folder of a trace.

        Raises:
            AnswerError: there is none of this id.
        """
        if _ID.fullmatch(name):
            for path in self._paths():
                if path.name == name:
                    return path
        raise AnswerError(
            404,
            f"there is no trace {shown(name)}; GET /traces lists those that are kept",
            code="trace_not_found",
        )

    def _make_room(self) -> None:
        paths = self._paths()
        sizes = [_bytes(path) for path in paths]
        left, held = len(paths), sum(sizes)
        for path, size in zip(paths, sizes, strict=True):
            if left <= self.most and held <= self._most_bytes:
                break
            shutil.rmtree(path)
            left, held = left - 1, held - size

    @contextmanager
    def _named(self) -> Generator[None, None, None]:
        """Errors as a client may read them: of traces by their ids, not of folders."""
        try:
            yield
        except AnswerError:
            raise
        except (SkipstoneError, OSError) as error:
            why = f"{error}"
            if isinstance(error, OSError):
                why = (
                    f"the folder of traces cannot be used ({error.strerror or error}); whoever "
                    f"runs the server may give another one (--traces)"
                )
            kind = TraceError if isinstance(error, TraceError) else OutputError
            home = self._given if self._own is None else self._own.name
            raise kind(why.replace(f"{home}/", "")) from None


def _written(folder: Path) -> int:
    """When its run was written down, in nanoseconds: the manifest is never touched again."""
    with suppress(OSError):
        return (folder / MANIFEST).stat().st_mtime_ns
    return 0


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*"))


def _card(folder: Path) -> TraceCard:
    card = TraceCard(id=folder.name, created=_written(folder) // 10**9, state="damaged")
    with suppress(TraceError), open_trace(folder) as trace:
        header = trace.headers[0]
        known = {
            "state": "finished" if trace.closed else "unfinished",
            "level": trace.manifest.level,
            "model": header.model,
            "settings": dict(header.settings),
        }
        return card.model_copy(update=known)
    return card
