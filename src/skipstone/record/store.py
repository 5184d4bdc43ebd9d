"""The format of a trace on disk, as its writer and its reader share it; docs/traces.md tells it.

A trace is a folder: ``manifest.json``, ``trace.sqlite``, and ``shards/`` with the tensors. Nothing
is pickled. Rows are only ever added, and each is numbered and carries a checksum.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipstone.record.tensors import TensorKey

FORMAT = "skipstone-trace"
SCHEMA = 2
MANIFEST, DATABASE, SHARDS = "manifest.json", "trace.sqlite", "shards"

MAX_MANIFEST = 1 << 16
"""Bytes of the manifest."""
MAX_JSON = 1 << 23
"""Bytes of one JSON text: a header with a million prompt ids, and some."""
MAX_ROW = 1 << 25
"""Bytes of one row: a step of 32,000 positions, judged in 80 layers, and some."""
MIN_ARRAYS = 1000
"""Bytes of a step's arrays: their names alone take more."""
MAX_SHARD_HEADER = 1 << 22
"""Bytes of a shard's header: tens of thousands of tensors."""

# AUTOINCREMENT remembers the highest id ever given, so that rows at the end cannot go unnoticed.
TABLES = """
CREATE TABLE samples (
    sample INTEGER PRIMARY KEY, header TEXT, header_checksum BLOB,
    outcome TEXT, steps INTEGER, outcome_checksum BLOB
);
CREATE TABLE steps (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sample INTEGER, forward INTEGER, number INTEGER,
    block INTEGER, step INTEGER, recovery INTEGER, refresh INTEGER, block_start INTEGER,
    block_stop INTEGER, skip_layer INTEGER, seconds REAL, positions_from TEXT, checksum BLOB,
    arrays BLOB
);
CREATE TABLE tensors (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sample INTEGER, forward INTEGER, tap TEXT,
    layer INTEGER, shard TEXT, rows INTEGER, width INTEGER, dtype TEXT, bytes INTEGER,
    positions TEXT, shard_bytes INTEGER, content BLOB, checksum BLOB
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sample INTEGER, event TEXT, checksum BLOB
);
CREATE TABLE experiments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT, created TEXT, request TEXT, outcome TEXT,
    checksum BLOB
);
"""


@dataclass(frozen=True)
class Manifest:
    """What a trace is; written once, when the run begins."""

    format: str
    schema: int
    created: str
    """UTC, ISO 8601."""
    skipstone: str
    """The version that wrote it."""
    level: str
    samples: int
    run: str = ""
    """16 random hexadecimal digits: the seed of all checksums; empty in schema 1."""
    checksum: str = ""
    """Over the other fields; empty in schema 1."""


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor is stored."""

    sample: int
    key: TensorKey
    shard: str
    """File name in ``shards/``."""
    rows: int
    width: int
    dtype: str
    nbytes: int
    """Of the values."""
    positions: str
    """Name of the positions in the shard; tensors with equal positions share them."""
    shard_bytes: int
    """Size of the whole shard."""
    content: bytes
    """Checksum over positions and values; empty in schema 1."""

    @property
    def values(self) -> str:
        """Name of the values in the shard."""
        return f"{self.key.tap}.{self.key.layer}.values"


@dataclass(frozen=True)
class Experiment:
    """What an experiment on the run was asked, and what it found; both JSON texts."""

    key: str
    request: str
    outcome: str


def shard_name(sample: int, forward: int) -> str:
    """The file that holds the tensors of a step."""
    return f"s{sample:04}-f{forward:06}.safetensors"
