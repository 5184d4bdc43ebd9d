"""The reader of traces: steps and tensors are loaded when they are asked for."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, overload

import ml_dtypes  # noqa: F401 (numpy learns bfloat16 from it)
from safetensors import SafetensorError, safe_open

from skipstone.errors import TraceError
from skipstone.record.schema import Event, Header, Outcome, RunRecord, StepRecord
from skipstone.record.store import (
    DATABASE,
    FORMAT,
    MANIFEST,
    SCHEMA,
    SHARDS,
    Experiment,
    Manifest,
    TensorEntry,
    from_json,
    manifest_version,
    text,
    unpack_step,
    whole,
)
from skipstone.record.tensors import Tap, TensorKey, TensorRows, with_provenance
from skipstone.version import __version__

_STEP = (
    "SELECT forward, block, step, recovery, refresh, block_start, block_stop, skip_layer, seconds, "
    "positions_from, arrays, crc FROM steps WHERE sample = ? AND forward = ?"
)
_ENTRIES = (
    "SELECT forward, tap, layer, shard, rows, width, dtype, bytes, positions, shard_bytes "
    "FROM tensors WHERE sample = ? ORDER BY forward, tap, layer"
)
# What a damaged or hostile file can make the libraries and our own checks raise.
_DAMAGE = (
    sqlite3.Error,
    SafetensorError,
    OSError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    StopIteration,
    MemoryError,
)

Row = tuple[object, ...]


def open_trace(path: str | Path) -> StoredTrace:
    """Open a trace for reading; it may be unfinished, or still being written.

    Raises:
        TraceError: there is no trace at ``path``, it is damaged, or it is from a newer version.
    """
    folder = Path(path)
    return StoredTrace(folder, _read_manifest(folder), _connect(folder))


class StoredTrace:
    """A trace on disk; made by ``open_trace``. A context manager, or closed when forgotten."""

    def __init__(self, path: Path, manifest: Manifest, database: sqlite3.Connection) -> None:
        """Read the headers; takes over ``database``."""
        self.path = path
        self.manifest = manifest
        self._database = database
        self._close = weakref.finalize(self, database.close)
        self._loaded = dict[int, RunRecord]()
        with self._reading("its samples"):
            rows = self._rows("SELECT header, outcome FROM samples ORDER BY sample")
            if len(rows) != manifest.samples:
                raise ValueError(f"{len(rows)} samples, the manifest says {manifest.samples}")
            self.headers = tuple(from_json(Header, text(header)) for header, _ in rows)
            """One for each sample; here at once, while a record takes reading its steps."""
            self.outcomes = tuple(
                None if outcome is None else from_json(Outcome, text(outcome))
                for _, outcome in rows
            )
            """One for each sample; None where the run did not end by itself."""

    @property
    def records(self) -> Sequence[RunRecord]:
        """One record for each sample, read when it is first asked for."""
        return _Records(self)

    @property
    def closed(self) -> bool:
        """Whether the run ended by itself; if not it was stopped, or is still going."""
        return None not in self.outcomes

    @property
    def experiments(self) -> list[Experiment]:
        """What experiments on the run found, in the order of their keys.

        Raises:
            TraceError: the table is damaged.
        """
        with self._reading("its experiments"):
            rows = self._rows("SELECT key, request, outcome FROM experiments ORDER BY key")
            return [Experiment(*map(text, row)) for row in rows]

    def add_experiment(self, key: str, request_json: str, outcome_json: str) -> None:
        """Keep the result of an experiment in the trace; an older one of this key gives way.

        Raises:
            TraceError: the trace cannot be written to.
        """
        row = (key, datetime.now(UTC).isoformat(timespec="seconds"), request_json, outcome_json)
        try:
            with closing(_open(self.path, "mode=rw")) as database:
                database.execute("INSERT OR REPLACE INTO experiments VALUES (?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise TraceError(
                f"the experiment {key!r} cannot be kept in {str(self.path)!r} ({error}); copy the "
                f"trace to where you can write"
            ) from error

    def record(self, sample: int) -> RunRecord:
        """The whole record of a sample.

        Raises:
            IndexError: there is no such sample.
            TraceError: a step or an event is damaged.
        """
        if sample not in self._loaded:
            header, outcome = self.headers[sample], self.outcomes[sample]
            steps = tuple(self.steps(sample))
            self._loaded[sample] = RunRecord(header, steps, outcome, tuple(self._events(sample)))
        return self._loaded[sample]

    def steps(self, sample: int) -> Iterator[StepRecord]:
        """The steps of a sample in order, one at a time.

        Raises:
            TraceError: a step is damaged; it is named.
        """
        sql = "SELECT forward FROM steps WHERE sample = ? ORDER BY forward"
        with self._reading(f"the steps of sample {sample}"):
            forwards = [whole(forward) for (forward,) in self._rows(sql, sample)]
        # Each row is fetched whole: a query left open would lock out add_experiment.
        for forward in forwards:
            with self._reading(f"the step at forward {forward} of sample {sample}"):
                step = unpack_step(*self._rows(_STEP, sample, forward)[0])
            yield step

    def entries(self, sample: int) -> list[TensorEntry]:
        """What the index says about the tensors of a sample, in order of their keys.

        Raises:
            TraceError: the index is damaged.
        """
        with self._reading(f"the tensors of sample {sample}"):
            return [_entry(sample, *row) for row in self._rows(_ENTRIES, sample)]

    def keys(self, sample: int) -> list[TensorKey]:
        """Tensors of a sample that were recorded, in order of forward, tap and layer.

        Raises:
            TraceError: the index is damaged.
        """
        return [entry.key for entry in self.entries(sample)]

    def tensor(self, sample: int, key: TensorKey) -> TensorRows | None:
        """One tensor, read from its shard; None if it was not recorded.

        Raises:
            TraceError: the shard is missing, cut off or damaged; others can still be read.
        """
        sql = _ENTRIES.replace("ORDER BY", "AND forward = ? AND tap = ? AND layer = ? ORDER BY")
        with self._reading(f"{key} of sample {sample}"):
            rows = self._rows(sql, sample, key.forward, str(key.tap), key.layer)
            if not rows:
                return None
            entry = _entry(sample, *rows[0])
        shard = self._shard(entry)
        with (
            self._reading(f"{key} of sample {sample}"),
            safe_open(shard, framework="np") as file,
        ):
            positions, values = file.get_tensor(entry.positions), file.get_tensor(entry.values)
            if values.shape != (entry.rows, entry.width) or positions.shape != (entry.rows,):
                raise ValueError(f"values are {list(values.shape)}, the index says otherwise")
            return with_provenance(self.record(sample), key, positions, values)

    def close(self) -> None:
        """Let go of the files."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _events(self, sample: int) -> list[Event]:
        with self._reading(f"the events of sample {sample}"):
            sql = "SELECT event FROM events WHERE sample = ? ORDER BY id"
            return [from_json(Event, text(event)) for (event,) in self._rows(sql, sample)]

    def _shard(self, entry: TensorEntry) -> Path:
        """The file of a tensor, if it is what the index says.

        Raises:
            TraceError: it is not.
        """
        path = self.path / SHARDS / entry.shard
        found = path.stat().st_size if path.is_file() else None
        if found == entry.shard_bytes:
            return path
        where = next(s for s in self.record(entry.sample).steps if s.forward == entry.key.forward)
        what = "is missing" if found is None else f"has {found} bytes"
        raise TraceError(
            f"{path} {what}, must have {entry.shard_bytes} bytes; it holds the tensors of forward "
            f"{where.forward} (block {where.block}, step {where.step}); copy it again; the other "
            f"steps can be read"
        )

    def _rows(self, sql: str, *values: str | int) -> list[Row]:
        return self._database.execute(sql, values).fetchall()

    @contextmanager
    def _reading(self, what: str) -> Generator[None, None, None]:
        try:
            yield
        except _DAMAGE as error:
            raise _damaged(self.path, what, error) from error


class _Records(Sequence[RunRecord]):
    """The records of a trace, each read when it is first asked for."""

    def __init__(self, trace: StoredTrace) -> None:
        self._trace = trace

    def __len__(self) -> int:
        return len(self._trace.headers)

    @overload
    def __getitem__(self, index: int) -> RunRecord: ...

    @overload
    def __getitem__(self, index: slice) -> list[RunRecord]: ...

    def __getitem__(self, index: int | slice) -> RunRecord | list[RunRecord]:
        samples = range(len(self))[index]
        if isinstance(samples, range):
            return [self._trace.record(sample) for sample in samples]
        return self._trace.record(samples)


def _entry(
    sample: int,
    forward: object,
    tap: object,
    layer: object,
    shard: object,
    rows: object,
    width: object,
    dtype: object,
    nbytes: object,
    positions: object,
    shard_bytes: object,
) -> TensorEntry:
    if Path(text(shard)).name != shard:
        raise ValueError(f"shard {shard!r} is no plain file name")
    return TensorEntry(
        sample=sample,
        key=TensorKey(whole(forward), Tap(text(tap)), whole(layer)),
        shard=text(shard),
        rows=whole(rows),
        width=whole(width),
        dtype=text(dtype),
        nbytes=whole(nbytes),
        positions=text(positions),
        shard_bytes=whole(shard_bytes),
    )


def _damaged(folder: Path, what: str, error: BaseException) -> TraceError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return TraceError(
        f"the trace {str(folder)!r} is damaged: {what} cannot be read ({reason}); copy it again"
    )


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        found = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        what = "does not exist" if not folder.exists() else f"has no {MANIFEST}"
        raise TraceError(
            f"{str(folder)!r} is no trace: it {what}; give the folder that 'skipstone trace -o' "
            f"made"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(folder, MANIFEST, error) from None
    try:
        kind, schema, version = manifest_version(found)
    except ValueError as error:
        raise _damaged(folder, MANIFEST, error) from None
    if kind != FORMAT:
        raise TraceError(
            f"{str(folder)!r} is no trace: its {MANIFEST} says {kind!r}, must say {FORMAT!r}"
        )
    if schema > SCHEMA:
        raise TraceError(
            f"the trace {str(folder)!r} has schema {schema} (written by skipstone {version}), and "
            f"skipstone {__version__} reads up to {SCHEMA}; upgrade skipstone to read it"
        )
    try:
        return from_json(Manifest, found)
    except ValueError as error:
        raise _damaged(folder, MANIFEST, error) from None


def _connect(folder: Path) -> sqlite3.Connection:
    """Open the database for reading, also where nothing can be written.

    Raises:
        TraceError: it is missing or no database.
    """
    if not (folder / DATABASE).is_file():
        raise TraceError(f"the trace {str(folder)!r} has no {DATABASE}; copy it again")
    try:
        try:
            return _open(folder, "mode=ro")
        except sqlite3.OperationalError:
            # An unfinished trace wants a file for shared memory beside it, even to be read.
            return _open_unwritable(folder)
    except (sqlite3.Error, OSError) as error:
        raise _damaged(folder, DATABASE, error) from error


def _open(folder: Path, how: str) -> sqlite3.Connection:
    """A connection that any thread may use, and that has proved to work."""
    uri = f"{(folder.resolve() / DATABASE).as_uri()}?{how}"
    database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        database.execute("SELECT count(*) FROM samples").fetchone()
    except sqlite3.Error:
        database.close()
        raise
    return database


def _open_unwritable(folder: Path) -> sqlite3.Connection:
    """Open a database in a folder where no file can be made."""
    log = folder / f"{DATABASE}-wal"
    if not log.exists() or log.stat().st_size == 0:
        return _open(folder, "immutable=1")
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with tempfile.TemporaryDirectory() as copied:
        for name in (log.name, DATABASE):
            shutil.copyfile(folder / name, Path(copied, name))
        with closing(_open(Path(copied), "mode=rw")) as database:
            database.backup(memory)
    return memory
