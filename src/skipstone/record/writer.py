"""The writer of traces: what ``step`` returned for is not lost when the process dies."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self

from safetensors import SafetensorError

from skipstone.errors import TraceError
from skipstone.kinds import of_kind
from skipstone.outputs import check_output, whole_folder
from skipstone.record.background import Background
from skipstone.record.checksum import ValueRow
from skipstone.record.damage import reason
from skipstone.record.ledger import Ledger
from skipstone.record.manifest import write_manifest
from skipstone.record.packing import INT
from skipstone.record.schema import Event, Header, Outcome, StepRecord
from skipstone.record.shards import write_shard
from skipstone.record.store import (
    DATABASE,
    FORMAT,
    SCHEMA,
    SHARDS,
    TABLES,
    Manifest,
    shard_name,
)
from skipstone.record.trace import Taken, Tensors
from skipstone.version import __version__

_INSERT_SAMPLE = "INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)"
_INSERT_STEP = f"INSERT INTO steps VALUES ({', '.join('?' * 15)})"
_INSERT_TENSOR = f"INSERT INTO tensors VALUES ({', '.join('?' * 14)})"
_INSERT_EVENT = "INSERT INTO events VALUES (?, ?, ?, ?)"
_SET_HEADER = "UPDATE samples SET header = ?, header_checksum = ? WHERE sample = ?"
_SET_OUTCOME = "UPDATE samples SET outcome = ?, steps = ?, outcome_checksum = ? WHERE sample = ?"

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
            ConfigError: ``path`` is no path.
            OutputError: something is at ``path`` already, or the trace cannot be written there.
        """
        of_kind("path", path, (str, Path), "the folder of a new trace")
        self.path = Path(path)
        self._database: sqlite3.Connection | None = None
        self._begun = False
        self._run = secrets.token_hex(8)
        self._ledger = Ledger(self._run)
        self._background = Background()
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
                _lay_out(part, headers, level, self._run, self._ledger)
            self._database = _open(self.path / DATABASE)
            # The log that is beside the database from now on tells readers that it may change.
            self._database.execute(f"PRAGMA user_version = {SCHEMA}")
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
        self._background.wait()
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
        self._background.wait()
        self._connected()
        self._background.add(partial(self._write_steps, steps))

    def lengthen(self, headers: Sequence[Header], steps: Sequence[tuple[int, StepRecord]]) -> None:
        """The canvas of the run grew: write headers and steps anew, as one transaction.

        Args:
            headers: one for each sample, with the new lengths.
            steps: all that were written, with their samples, in order; their tensors stay.

        Raises:
            TraceError: the disk refuses; the trace is what it was before.
        """
        self._background.wait()
        self._ledger.again()
        told = [self._ledger.header(sample, header)[:3] for sample, header in enumerate(headers)]
        self._write(
            (_SET_HEADER, [(text, checksum, sample) for sample, text, checksum in told]),
            ("DELETE FROM steps", [()]),
            (_INSERT_STEP, [self._ledger.step(sample, record) for sample, record in steps]),
        )

    def event(self, sample: int, event: Event) -> None:
        """Write down that something else was seen.

        Raises:
            TraceError: the disk refuses.
        """
        self._background.wait()
        self._write((_INSERT_EVENT, [self._ledger.event(sample, event)]))

    def end(self, outcomes: Sequence[Outcome]) -> None:
        """Write down how the run ended, and close the trace.

        Raises:
            TraceError: the disk refuses.
        """
        self._background.wait()
        rows = [self._ledger.outcome(sample, outcome) for sample, outcome in enumerate(outcomes)]
        self._write((_SET_OUTCOME, rows))
        self.close()

    def close(self) -> None:
        """Let go of the files. A trace that was not ended stays unfinished.

        Raises:
            TraceError: the disk refused the last steps, and nothing has said so yet.
        """
        try:
            self._background.finish()
        finally:
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _let_go(self) -> None:
        if self._database is not None:
            # The last to close it puts the log into the database, and takes the log away.
            self._database.close()
            self._database = None

    def _write_steps(self, steps: Iterable[Taken]) -> None:
        for taken in steps:
            self._write_step(*taken)

    def _write_step(self, sample: int, record: StepRecord, tensors: Tensors) -> None:
        row = self._ledger.step(sample, record)
        if tensors:
            entries = self._write_shard(sample, record.forward, tensors)
            self._write((_INSERT_STEP, [row]), (_INSERT_TENSOR, entries))
        else:
            self._write_row(row)

    def _write_row(self, row: ValueRow) -> None:
        """Insert one step; a statement alone is a transaction of its own."""
        try:
            self._connected().execute(_INSERT_STEP, row)
        except _FAILURES as error:
            raise self._failed(error) from error

    def _write(self, *statements: tuple[str, Iterable[ValueRow]]) -> None:
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

    def _write_shard(self, sample: int, forward: int, tensors: Tensors) -> list[ValueRow]:
        """Write the tensors of a step. Returns what the index says about them."""
        ours = {key: (p.astype(INT, copy=False), values) for key, (p, values) in tensors.items()}
        path = self.path / SHARDS / shard_name(sample, forward)
        try:
            stored = write_shard(path, ours, (self.path / DATABASE).stat().st_mode)
        except _FAILURES as error:
            raise self._failed(error) from error
        return [self._ledger.tensor(sample, key, *ours[key], stored[key]) for key in ours]

    def _failed(self, error: Exception) -> TraceError:
        """Give up: nothing can be written after a step that is missing."""
        if self._database is not None:
            self._database.close()
            self._database = None
        return TraceError(
            f"the trace {str(self.path)!r} cannot be written ({reason(error)}); the steps before "
            f"can be read; free some space or choose another disk, and run again with a new path"
        )


def _lay_out(folder: Path, headers: Sequence[Header], level: str, run: str, ledger: Ledger) -> None:
    """Everything that a trace has before its first step."""
    (folder / SHARDS).mkdir()
    with closing(_open(folder / DATABASE)) as database:
        # For ever: a log names no other file, and a process that is killed leaves nothing that
        # has to be undone.
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(TABLES)
        rows = [ledger.header(sample, header) for sample, header in enumerate(headers)]
        database.executemany(_INSERT_SAMPLE, rows)
    manifest = Manifest(
        format=FORMAT,
        schema=SCHEMA,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        skipstone=__version__,
        level=level,
        samples=len(headers),
        run=run,
    )
    write_manifest(folder, manifest)


def _open(path: Path) -> sqlite3.Connection:
    """The database. The run may go on in another thread than the one that began it."""
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA synchronous = NORMAL")
        # Every megabyte, about a hundred steps. A checkpoint waits for the disk, beside the run if
        # a thread writes; what is left of the log is waited for when the run ends.
        database.execute("PRAGMA wal_autocheckpoint = 256")
    except BaseException:
        database.close()
        raise
    return database
