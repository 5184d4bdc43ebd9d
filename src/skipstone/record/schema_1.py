"""Traces of schema 1, which carry a checksum over the arrays of a step and no other.

They are read for ever, and never written to.
"""

from __future__ import annotations

from itertools import pairwise
from zlib import crc32

from skipstone.record.database import Database
from skipstone.record.packing import unpack_entry, unpack_step
from skipstone.record.plain import blob, text, whole
from skipstone.record.schema import Hole, StepRecord
from skipstone.record.store import Experiment, TensorEntry
from skipstone.record.tensors import TensorKey

TABLES = """
CREATE TABLE samples (
    sample INTEGER PRIMARY KEY, header TEXT NOT NULL, outcome TEXT
);
CREATE TABLE steps (
    sample INTEGER, forward INTEGER, block INTEGER, step INTEGER, recovery INTEGER,
    refresh INTEGER, block_start INTEGER, block_stop INTEGER, skip_layer INTEGER, seconds REAL,
    positions_from TEXT, arrays BLOB,
    crc INTEGER,
    PRIMARY KEY (sample, forward)
);
CREATE TABLE tensors (
    sample INTEGER, forward INTEGER, tap TEXT, layer INTEGER, shard TEXT, rows INTEGER,
    width INTEGER, dtype TEXT, bytes INTEGER, positions TEXT, shard_bytes INTEGER,
    PRIMARY KEY (sample, forward, tap, layer)
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY, sample INTEGER, event TEXT NOT NULL
);
CREATE TABLE experiments (
    key TEXT PRIMARY KEY, created TEXT, request TEXT NOT NULL, outcome TEXT NOT NULL
);
"""

_STEP = (
    "SELECT crc, forward, block, step, recovery, refresh, block_start, block_stop, skip_layer, "
    "seconds, positions_from, arrays FROM steps WHERE sample = ? AND forward = ?"
)
_ENTRIES = (
    "SELECT forward, tap, layer, shard, rows, width, dtype, bytes, positions, shard_bytes "
    "FROM tensors WHERE sample = ?"
)


class Rows1:
    """The rows of a trace of schema 1."""

    def __init__(self, database: Database) -> None:
        """Read from a database that has the tables of this schema."""
        self._database = database

    def samples(self) -> list[tuple[str, str | None]]:
        """Header and outcome of each sample, as JSON."""
        rows = self._database.rows("SELECT header, outcome FROM samples ORDER BY sample")
        return [(text(header), None if end is None else text(end)) for header, end in rows]

    def forwards(self, sample: int) -> list[int]:
        """The forwards that a sample took part in, ascending."""
        sql = "SELECT forward FROM steps WHERE sample = ? ORDER BY forward"
        return [whole(forward) for (forward,) in self._database.rows(sql, sample)]

    def holes(self, sample: int) -> tuple[Hole, ...]:
        """Forwards that are missing between others."""
        forwards = self.forwards(sample)
        return tuple(Hole(a, b, b - a - 1) for a, b in pairwise(forwards) if b > a + 1)

    def step(self, sample: int, forward: int) -> StepRecord:
        """One step."""
        (row,) = self._database.rows(_STEP, sample, forward)
        crc, *values = row
        if crc32(blob(values[-1])) != crc:
            raise ValueError("its checksum is wrong")
        return unpack_step(*values)

    def entries(self, sample: int) -> list[TensorEntry]:
        """The index of a sample's tensors, in order of their keys."""
        sql = f"{_ENTRIES} ORDER BY forward, tap, layer"
        return [unpack_entry(sample, *row, b"") for row in self._database.rows(sql, sample)]

    def entry(self, sample: int, key: TensorKey) -> TensorEntry | None:
        """What the index says about one tensor; None if it is not in there."""
        sql = f"{_ENTRIES} AND forward = ? AND tap = ? AND layer = ?"
        rows = self._database.rows(sql, sample, key.forward, str(key.tap), key.layer)
        return next((unpack_entry(sample, *row, b"") for row in list(rows)), None)

    def events(self, sample: int) -> list[str]:
        """Events of a sample as JSON, in order."""
        sql = "SELECT event FROM events WHERE sample = ? ORDER BY id"
        return [text(event) for (event,) in self._database.rows(sql, sample)]

    def experiments(self) -> list[Experiment]:
        """Experiments on the run, by key."""
        rows = self._database.rows("SELECT key, request, outcome FROM experiments ORDER BY key")
        return [Experiment(*map(text, row)) for row in rows]
