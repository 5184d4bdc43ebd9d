"""The writer of traces: what ``step`` returned for is not lost when the process dies."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self
from zlib import crc32

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from skipstone.errors import TraceError
from skipstone.outputs import check_output, whole_folder
from skipstone.record.behind import Behind
from skipstone.record.schema import Event, Header, Outcome, StepRecord
from skipstone.record.store import (
    DATABASE,
    FORMAT,
    INT,
    MANIFEST,
    SCHEMA,
    SHARDS,
    TABLES,
    Manifest,
    pack_step,
    to_json,
)
from skipstone.record.trace import Taken, Tensors
from skipstone.version import __version__

Row = tuple[str | int | float | bytes, ...]

_INSERT_STEP = f"INSERT INTO steps VALUES ({', '.join('?' * 13)})"
_INSERT_TENSOR = f"INSERT INTO tensors VALUES ({', '.join('?' * 11)})"

_FAILURES = (OSError, sqlite3.Error, SafetensorError)


class TraceWriter:
    """Takes down one run in a new folder; a sink for the recorder, and a context manager.

    Each step is one transaction. Its tensors, if any, are complete in a shard of their own before
    the transaction that names the shard. A process that is killed loses at most the step that is
    being written, which is the latest; what is left has no holes. A machine that loses power may
    lose the last few steps, and their shards.

    Example:
        ``with TraceWriter("run.trace") as sink: engine.generate(p, observer=Recorder(sink=sink))``
    """

    def __init__(self, path: str | Path) -> None:
        """Nothing is written yet: the trace appears when its run begins.

        Raises:
            OutputError: something lies at ``path`` already, or the trace cannot be written there.
        """
        self.path = Path(path)
        self._database: sqlite3.Connection | None = None
        self._begun = False
        self._behind = Behind()
        check_output(self.path, replace=False)

    def begin(self, headers: Sequence[Header], level: str) -> None:
        """Lay out the trace; it is there from now on, and can be opened.

        Raises:
            TraceError: a run was begun before, or the disk refuses.
            OutputError: another process wrote to the path meanwhile, or the disk refuses.
        """
        if self._begun:
            raise TraceError(
                f"{str(self.path)!r} holds a run already, and a trace holds one; give each run "
                f"its own TraceWriter"
            )
        self._begun = True
        try:
            with whole_folder(self.path) as part:
                _lay_out(part, headers, level)
            self._database = _open(self.path / DATABASE)
        except _FAILURES as error:
            raise self._failed(error) from error

    def step(self, sample: int, record: StepRecord, tensors: Tensors) -> None:
        """Write a step down; when this returns, it will not be lost.

        Args:
            sample: which request of the batch.
            record: what was decided.
            tensors: positions, integers [N], and values [N, W] of each tapped tensor.

        Raises:
            TraceError: the disk refuses; the steps before can still be read.
        """
        self._behind.wait()
        self._write_step(sample, record, tensors)

    def later(self, steps: Iterable[Taken]) -> None:
        """Take steps that a thread writes down now, while the run goes on.

        A process that is killed before that is done loses them. The next call waits for it, and so
        does every other way of ending.

        Args:
            steps: drawn and written on another thread, in order.

        Raises:
            TraceError: the disk refused an earlier step; the steps before it can still be read.
        """
        self._behind.wait()
        self._connected()
        self._behind.add(partial(self._write_steps, steps))

    def event(self, sample: int, event: Event) -> None:
        """Write down that something else was seen.

        Raises:
            TraceError: the disk refuses.
        """
        self._behind.wait()
        self._write(("INSERT INTO events VALUES (NULL, ?, ?)", [(sample, to_json(event))]))

    def end(self, outcomes: Sequence[Outcome]) -> None:
        """Write down how the run ended, and close the trace.

        Raises:
            TraceError: the disk refuses.
        """
        self._behind.wait()
        rows = [(to_json(outcome), sample) for sample, outcome in enumerate(outcomes)]
        self._write(("UPDATE samples SET outcome = ? WHERE sample = ?", rows))
        self.close()

    def close(self) -> None:
        """Let go of the files. A trace that was not ended stays unfinished.

        Raises:
            TraceError: the disk refused the last steps, and nothing has said so yet.
        """
        try:
            self._behind.finish()
        finally:
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _let_go(self) -> None:
        if self._database is not None:
            # Back to one plain file, which opens on read-only media too. Somebody who is reading
            # it now prevents that, and it does not matter.
            with suppress(sqlite3.Error):
                self._database.execute("PRAGMA busy_timeout = 0")
                self._database.execute("PRAGMA journal_mode = DELETE")
            self._database.close()
            self._database = None

    def _write_steps(self, steps: Iterable[Taken]) -> None:
        for taken in steps:
            self._write_step(*taken)

    def _write_step(self, sample: int, record: StepRecord, tensors: Tensors) -> None:
        arrays = pack_step(record)
        row = (
            sample,
            record.forward,
            record.block,
            record.step,
            record.recovery,
            record.refresh,
            record.block_start,
            record.block_stop,
            record.skip_layer,
            record.seconds,
            record.positions_from,
            arrays,
            crc32(arrays),
        )
        if tensors:
            entries = self._write_shard(sample, record.forward, tensors)
            self._write((_INSERT_STEP, [row]), (_INSERT_TENSOR, entries))
        else:
            self._write_row(row)

    def _write_row(self, row: Row) -> None:
        """Insert one step; a statement alone is a transaction of its own."""
        try:
            self._connected().execute(_INSERT_STEP, row)
        except _FAILURES as error:
            raise self._failed(error) from error

    def _write(self, *statements: tuple[str, Iterable[Row]]) -> None:
        """Run statements, each with its rows, as one transaction."""
        database = self._connected()
        try:
            database.execute("BEGIN")
            for sql, rows in statements:
                database.executemany(sql, rows)
            database.execute("COMMIT")
        except _FAILURES as error:
            raise self._failed(error) from error

    def _connected(self) -> sqlite3.Connection:
        if self._database is None:
            raise TraceError(
                f"the trace {str(self.path)!r} takes no more: its run has not begun, has ended, or "
                f"has failed; give each run its own TraceWriter"
            )
        return self._database

    def _write_shard(self, sample: int, forward: int, tensors: Tensors) -> list[Row]:
        """Write the tensors of a step. Returns what the index says about them."""
        name = f"s{sample:04}-f{forward:06}.safetensors"
        arrays, homes = dict[str, np.ndarray](), dict[bytes, str]()
        for key, (positions, values) in tensors.items():
            ours = positions.astype(INT, copy=False)
            home = homes.setdefault(ours.tobytes(), f"{key.tap}.{key.layer}.positions")
            arrays[home] = np.ascontiguousarray(ours)
            arrays[f"{key.tap}.{key.layer}.values"] = np.ascontiguousarray(values)
        part, whole = self.path / SHARDS / f"{name}.part", self.path / SHARDS / name
        try:
            save_file(arrays, part)
            # The library lets nobody but the owner read it; the database goes by the umask.
            part.chmod((self.path / DATABASE).stat().st_mode)
            size = part.stat().st_size
            part.rename(whole)
        except _FAILURES as error:
            with suppress(OSError):
                part.unlink()
            raise self._failed(error) from error
        return [
            (
                sample,
                forward,
                str(key.tap),
                key.layer,
                name,
                *values.shape,
                values.dtype.name,
                values.nbytes,
                homes[positions.astype(INT, copy=False).tobytes()],
                size,
            )
            for key, (positions, values) in tensors.items()
        ]

    def _failed(self, error: Exception) -> TraceError:
        """Give up: nothing can be written after a step that is missing."""
        if self._database is not None:
            self._database.close()
            self._database = None
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        return TraceError(
            f"the trace {str(self.path)!r} cannot be written ({reason}); the steps before can be "
            f"read; free some space or choose another disk, and run again with a new path"
        )


def _lay_out(folder: Path, headers: Sequence[Header], level: str) -> None:
    """Everything that a trace has before its first step."""
    (folder / SHARDS).mkdir()
    with closing(_open(folder / DATABASE)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(TABLES)
        rows = [(sample, to_json(header)) for sample, header in enumerate(headers)]
        database.executemany("INSERT INTO samples VALUES (?, ?, NULL)", rows)
    manifest = Manifest(
        format=FORMAT,
        schema=SCHEMA,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        skipstone=__version__,
        level=level,
        samples=len(headers),
    )
    (folder / MANIFEST).write_text(to_json(manifest) + "\n", encoding="utf-8")


def _open(path: Path) -> sqlite3.Connection:
    """The database. The run may go on in another thread than the one that began it."""
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA synchronous = NORMAL")
    # Every 16 MB, about 1500 steps: a checkpoint waits for the disk.
    database.execute("PRAGMA wal_autocheckpoint = 4000")
    return database
