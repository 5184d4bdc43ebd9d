"""Traces: their database, manifest and shards, changed by disks and by attackers.

The oracle reads everything. What comes back is what was recorded, or an error is raised: content
that was changed is never taken for what was recorded.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random

import numpy as np

from skipstone import open_trace
from skipstone.errors import TraceError
from skipstone.record.store import DATABASE, MANIFEST, SHARDS
from tests.fuzz.case import Kind, Outcome, Scene, call, command, silent
from tests.fuzz.mutate import broken_bytes, broken_json, flipped, json_bytes

Mutate = Callable[[Path, Random], None]
_TRACES = ("a.trace", "b.trace", "made_up.trace")


# --- what is read ---------------------------------------------------------------------------------


def contents(path: Path) -> str:
    """A digest of everything that can be read from a trace."""
    told = sha256()
    with open_trace(path) as trace:
        for part in (trace.headers, trace.outcomes, trace.records[:], trace.manifest.level):
            _tell(told.update, part)
        holes = [hole for record in trace.records for hole in record.holes]
        if holes:  # a step that is missing is named, as content that is damaged is
            raise TraceError(f"steps are missing: {holes}")
        for sample in range(len(trace.headers)):
            for key in trace.keys(sample):
                rows = trace.tensor(sample, key)
                assert rows is not None
                _tell(told.update, (key, rows))
    return told.hexdigest()


def _tell(update: Callable[[bytes], object], value: object) -> None:
    if isinstance(value, np.ndarray):
        update(f"{value.dtype}{value.shape}".encode())
        update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for member in value:
            _tell(update, member)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            update(name.encode())
            _tell(update, getattr(value, name))
    else:
        update(repr(value).encode("utf-8", "surrogatepass"))


@cache
def _recorded(path: Path) -> str:
    return contents(path)


# --- files ----------------------------------------------------------------------------------------


def _database(trace: Path, random: Random) -> None:
    path = trace / DATABASE
    path.write_bytes(flipped(path.read_bytes(), random, random.choice((1, 1, 8))))


def _database_torn(trace: Path, random: Random) -> None:
    path = trace / DATABASE
    path.write_bytes(broken_bytes(path.read_bytes(), random))


def _pages(trace: Path, random: Random) -> None:
    """Two pages of the database change places."""
    path = trace / DATABASE
    content = path.read_bytes()
    pages = [content[i : i + 4096] for i in range(0, len(content), 4096)]
    i, j = random.randrange(len(pages)), random.randrange(len(pages))
    pages[i], pages[j] = pages[j], pages[i]
    path.write_bytes(b"".join(pages))


def _journal(trace: Path, random: Random) -> None:
    """A log beside the database that does not belong to it."""
    name = random.choice(("-wal", "-journal", "-shm"))
    content = (trace / DATABASE).read_bytes()[:4096]
    (trace / f"{DATABASE}{name}").write_bytes(broken_bytes(content, random))


def _manifest(trace: Path, random: Random) -> None:
    path = trace / MANIFEST
    path.write_bytes(json_bytes(broken_json(json.loads(path.read_bytes()), random), random))


def _shard(trace: Path, random: Random) -> None:
    path = random.choice(sorted((trace / SHARDS).iterdir()))
    path.write_bytes(flipped(path.read_bytes(), random))


def _shard_torn(trace: Path, random: Random) -> None:
    path = random.choice(sorted((trace / SHARDS).iterdir()))
    path.write_bytes(broken_bytes(path.read_bytes(), random))


def _shards_swapped(trace: Path, random: Random) -> None:
    one, other = random.sample(sorted((trace / SHARDS).iterdir()), 2)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    if random.random() < 0.5:
        other.write_bytes(content)


def _no_file(trace: Path, random: Random) -> None:
    """A file is gone, or a folder, a pipe, a device or a link is in its place."""
    path = random.choice(sorted(p for p in trace.rglob("*") if p.is_file()))
    path.unlink()
    random.choice(
        (
            lambda: None,
            path.mkdir,
            lambda: os.mkfifo(path),
            lambda: path.symlink_to("/dev/zero"),
            lambda: path.symlink_to("/etc/passwd"),
            lambda: path.symlink_to(path),
        )
    )()


# --- rows and the schema --------------------------------------------------------------------------

_VALUES = (
    *("NULL", "0", "-1", "1", "7", "9223372036854775807", "1e400", "1.5", "'x'", "''", "x'00'"),
    *("zeroblob(100)", "zeroblob(20000000)", "'../../x'", "'\u001b[2J'", "'{}'", "'[[[['"),
    *("forward + 1", "sample", "arrays", "substr(arrays, 2)", "crc + 1", "header", "seconds * 2"),
)
_SCHEMA = (
    "CREATE TRIGGER tr AFTER INSERT ON experiments BEGIN DELETE FROM steps; END",
    "CREATE TRIGGER tr INSTEAD OF INSERT ON v BEGIN DELETE FROM steps; END",
    "CREATE VIEW v AS SELECT 1",
    "ALTER TABLE steps RENAME TO old; CREATE VIEW steps AS SELECT * FROM old",
    "ALTER TABLE steps RENAME TO old; CREATE VIEW steps AS WITH RECURSIVE c(x) AS (SELECT 1 UNION "
    "ALL SELECT x + 1 FROM c) SELECT old.* FROM old, c",
    "ALTER TABLE samples RENAME TO old; CREATE VIEW samples AS SELECT sample, "
    "CAST(zeroblob(900000000) AS TEXT) AS header, outcome FROM old",
    "ALTER TABLE samples RENAME TO old; CREATE VIEW samples AS WITH RECURSIVE c(x) AS (SELECT 1 "
    "UNION ALL SELECT x + 1 FROM c) SELECT x AS sample, '' AS header, '' AS outcome FROM c",
    "ALTER TABLE tensors RENAME TO old; CREATE VIEW tensors AS SELECT * FROM old",
    "CREATE TABLE more (x); INSERT INTO more VALUES (1)",
    "CREATE INDEX i ON steps (abs(forward))",
    "CREATE VIRTUAL TABLE f USING fts5(x)",
    "ALTER TABLE steps ADD COLUMN extra DEFAULT 7",
    "ALTER TABLE samples ADD COLUMN extra AS (randomblob(100000000))",
    "ALTER TABLE steps DROP COLUMN crc",
    "DROP TABLE steps",
    "DROP TABLE tensors",
    "DROP TABLE events",
    "DROP TABLE experiments",
    "PRAGMA user_version = 99",
    "PRAGMA application_id = 7",
    "PRAGMA encoding = 'UTF-16'; VACUUM",
    "PRAGMA page_size = 512; VACUUM",
    "PRAGMA journal_mode = WAL",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE steps (x)'",
    "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'steps'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = 2",
)


def _rows(trace: Path, random: Random) -> None:
    """One value is another, rows are gone, doubled, or those of another step."""
    with closing(sqlite3.connect(trace / DATABASE)) as database, suppress(sqlite3.Error):
        database.execute("PRAGMA foreign_keys = OFF")
        sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        tables = [name for (name,) in database.execute(sql)]
        table = random.choice(tables)
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        column, other = random.choice(columns), random.choice(columns)
        (count,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
        at = random.randrange(max(1, count))
        one = f" WHERE rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET {at})"
        where = "" if random.random() < 0.3 else one
        value = random.choice((*_VALUES, other, f"(SELECT {column} FROM {table} LIMIT 1 OFFSET 1)"))
        database.execute(
            random.choice(
                (
                    f"UPDATE {table} SET {column} = {value}{where}",
                    f"UPDATE {table} SET {column} = {value}{where}",
                    f"UPDATE {table} SET {column} = {value}{where}",
                    f"DELETE FROM {table}{where}",
                    f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}{where}",
                )
            )
        )
        database.commit()


def _schema(trace: Path, random: Random) -> None:
    with closing(sqlite3.connect(trace / DATABASE)) as database, suppress(sqlite3.Error):
        database.executescript(random.choice(_SCHEMA))
        database.commit()


# --- cases ----------------------------------------------------------------------------------------


def _read(mutate: Mutate) -> Callable[[Scene], Outcome]:
    """All of a changed trace is read; an experiment is noted before, which changes nothing."""

    def act(scene: Scene) -> Outcome:
        name = scene.random.choice(_TRACES)
        trace = scene.copy(name)
        mutate(trace, scene.random)
        found = list[str]()
        outcome = call(lambda: found.append(contents(trace)))
        if found and scene.random.random() < 0.5:
            found.clear()
            outcome = call(lambda: found.append(_with_experiment(trace)))
        if found and found != [_recorded(scene.sound / name)]:
            return silent(outcome, "something else was read than what was recorded")
        return outcome

    return act


def _with_experiment(trace: Path) -> str:
    with open_trace(trace) as opened:
        opened.add_experiment("fuzz", "{}", "{}")
    return contents(trace)


def _shown(scene: Scene) -> Outcome:
    """A command meets a trace that was changed in some way."""
    random = scene.random
    trace = scene.copy(random.choice(_TRACES))
    random.choice([mutate for mutate, _ in _MUTATIONS.values()])(trace, random)
    path, sound = str(trace), str(scene.copy("a.trace", "sound.trace"))
    show = ["show", path]
    return command(
        random.choice(
            (
                show,
                [*show, "--steps"],
                [*show, "--step", "0.1"],
                [*show, "--events"],
                [*show, "--json"],
                [*show, "--verify"],
                [*show, "--sample", "1"],
                ["diff", path, sound, "--floor", "estimate"],
                ["diff", sound, path, "--json", "--floor", "estimate"],
                ["export", path, "--to", "perfetto", "-o", str(scene.here / "out.json")],
                ["export", path, "--to", "parquet", "-o", str(scene.here / "out")],
                ["diagnose", path, sound, "--time-limit", "0.1s"],
                ["step", path, "--at", "0.1", "--with", "skip=none"],
            )
        )
    )


_MUTATIONS: dict[str, tuple[Mutate, int]] = {
    "trace database": (_database, 4),
    "trace database torn": (_database_torn, 2),
    "trace pages": (_pages, 2),
    "trace journal": (_journal, 2),
    "trace rows": (_rows, 8),
    "trace schema": (_schema, 5),
    "trace manifest": (_manifest, 3),
    "trace shard": (_shard, 6),
    "trace shard torn": (_shard_torn, 2),
    "trace shards swapped": (_shards_swapped, 4),
    "trace no file": (_no_file, 3),
}

KINDS = (
    *(Kind(name, _read(mutate), weight) for name, (mutate, weight) in _MUTATIONS.items()),
    Kind("trace commands", _shown, 14),
)
