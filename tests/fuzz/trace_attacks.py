"""What somebody may put into a trace to harm whoever reads it; every attack has a name.

Checksums are right wherever the attack does not lie in a wrong one: whoever writes a trace knows
how to compute them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import struct
from collections.abc import Callable, Mapping
from contextlib import closing
from copy import copy
from pathlib import Path
from typing import TypeVar

import numpy as np

from skipstone.record import Header, Outcome, StepRecord, Tap, TensorKey, TraceWriter
from skipstone.record.checksum import Checksums, Value
from skipstone.record.manifest import read_manifest
from tests.helpers import synthetic_trace as made_up

T = TypeVar("T")

Attack = Callable[[Path], None]
"""Changes the finished trace in a folder."""

DATABASE = "trace.sqlite"
_ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r)"


def attacks() -> dict[str, Attack]:
    """Every attack by its name."""
    return {**_code(), **_schemas(), **_sizes(), **_files(), **_shards(), **_values(), **_texts()}


# --- code in the database


def _code() -> dict[str, Attack]:
    return {
        "a trigger deletes steps": sql(
            "CREATE TRIGGER tr AFTER INSERT ON experiments BEGIN DELETE FROM steps; END"
        ),
        "a trigger never ends": sql(
            "CREATE TRIGGER tr AFTER INSERT ON experiments BEGIN "
            f"INSERT INTO events SELECT NULL, 0, n, NULL FROM ({_ENDLESS} SELECT n FROM r); END"
        ),
        "a trigger on a view": sql(
            "CREATE VIEW v AS SELECT 1 AS a",
            "CREATE TRIGGER tr INSTEAD OF INSERT ON v BEGIN DELETE FROM steps; END",
        ),
        "steps are an endless view": sql(
            "DROP TABLE steps",
            f"CREATE VIEW steps AS {_ENDLESS} SELECT n AS id, 0 AS sample, n AS forward, n AS "
            "number, zeroblob(1000) AS arrays FROM r",
        ),
        "samples are a view that takes memory": sql(
            "DROP TABLE samples",
            "CREATE VIEW samples AS SELECT zeroblob(1000000000) AS header, NULL AS outcome",
        ),
        "experiments are a view": sql(
            "ALTER TABLE experiments RENAME TO e", "CREATE VIEW experiments AS SELECT * FROM e"
        ),
        "a view beside the tables": sql("CREATE VIEW more AS SELECT * FROM steps"),
        "a full-text table": sql("CREATE VIRTUAL TABLE more USING fts5(text)"),
        "steps are a virtual table": sql(
            "DROP TABLE steps", "CREATE VIRTUAL TABLE steps USING fts5(id, sample, forward)"
        ),
    }


def _schemas() -> dict[str, Attack]:
    steps = "CREATE TABLE steps (id INTEGER PRIMARY KEY AUTOINCREMENT, sample INTEGER"
    return {
        "another table": sql("CREATE TABLE more (a)"),
        "an index": sql("CREATE INDEX i ON steps (forward)"),
        "an index on an expression": sql("CREATE INDEX i ON steps (abs(forward))"),
        "a unique index": sql("CREATE UNIQUE INDEX i ON steps (id)"),
        "statistics": sql("ANALYZE"),
        "another column": sql("ALTER TABLE steps ADD COLUMN more"),
        "a generated column": sql("ALTER TABLE steps ADD COLUMN more AS (zeroblob(1000000))"),
        "a default": sql("ALTER TABLE experiments ADD COLUMN more DEFAULT (1)"),
        "a check": sql("DROP TABLE steps", f"{steps} CHECK (sample < 1))"),
        "a collation": sql("DROP TABLE steps", f"{steps} COLLATE NOCASE)"),
        "a strict table": sql("DROP TABLE steps", f"{steps}) STRICT"),
        "a table without numbers": sql(
            "DROP TABLE events", "CREATE TABLE events (id INTEGER PRIMARY KEY) WITHOUT ROWID"
        ),
        "no tables": _rewritten("VACUUM"),
        "two tables in one tree": _schema(
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE "
            "name = 'tensors') WHERE name = 'steps'"
        ),
        "a table in the list of tables": _schema(
            "UPDATE sqlite_master SET rootpage = 1 WHERE name = 'steps'"
        ),
        "a table at no page": _schema("UPDATE sqlite_master SET rootpage = 0 WHERE name = 'steps'"),
        "a table far outside": _schema(
            "UPDATE sqlite_master SET rootpage = 2000000000 WHERE name = 'steps'"
        ),
        "nonsense for a table": _schema(
            "UPDATE sqlite_master SET sql = 'CREATE TABLE steps (((' WHERE name = 'steps'"
        ),
        "a table twice": _schema(
            "INSERT INTO sqlite_master SELECT * FROM sqlite_master WHERE name = 'steps'"
        ),
        "a very long table": _schema(
            f"UPDATE sqlite_master SET sql = 'CREATE TABLE steps (a{',a' * 400_000})' "
            "WHERE name = 'steps'"
        ),
    }


def sql(*statements: str) -> Attack:
    """Run statements on the database."""

    def attack(trace: Path) -> None:
        with closing(sqlite3.connect(trace / DATABASE)) as database:
            for statement in statements:
                database.execute(statement)
            database.commit()

    return attack


def _schema(statement: str) -> Attack:
    return sql("PRAGMA writable_schema = ON", statement, "PRAGMA user_version = 7")


def _rewritten(statement: str) -> Attack:
    def attack(trace: Path) -> None:
        (trace / DATABASE).unlink()
        sql("PRAGMA user_version = 2", statement)(trace)

    return attack


# --- more than it is worth


def _sizes() -> dict[str, Attack]:
    return {
        "a header of 100 MB": sql("UPDATE samples SET header = CAST(zeroblob(100000000) AS TEXT)"),
        "arrays of 100 MB": sql("UPDATE steps SET arrays = zeroblob(100000000) WHERE id = 1"),
        "arrays of 20 MB": sql("UPDATE steps SET arrays = zeroblob(20000000) WHERE id = 1"),
        "a million steps": sql(
            f"{_ENDLESS} INSERT INTO steps (sample, forward, number, arrays) "
            "SELECT 0, n + 100, n + 100, x'' FROM r LIMIT 1000000"
        ),
        "a million events": sql(
            f"{_ENDLESS} INSERT INTO events (sample, event) SELECT 0, '[]' FROM r LIMIT 1000000"
        ),
        "a million samples": sql(
            f"{_ENDLESS} INSERT INTO samples (sample, header) SELECT n, '[]' FROM r LIMIT 1000000"
        ),
        "a knotted count of rows": _knotted("sqlite_sequence"),
        "a knotted table of steps": _knotted("steps"),
        "a knotted table of samples": _knotted("samples"),
        "a knotted list of tables": _knotted("sqlite_master"),
        "a count of pages beyond the file": _patched(28, struct.pack(">I", 4_000_000_000)),
        "pages of 64 kB": _patched(16, b"\x00\x01"),
        "pages of one byte": _patched(16, b"\x00\x01\x02"),
        "a file format from the future": _patched(18, b"\x09\x09"),
        "rollback journals": _patched(18, b"\x01\x01"),
        "text in UTF-16": _patched(56, struct.pack(">I", 3)),
    }


def _patched(at: int, raw: bytes) -> Attack:
    def attack(trace: Path) -> None:
        content = bytearray((trace / DATABASE).read_bytes())
        content[at : at + len(raw)] = raw
        (trace / DATABASE).write_bytes(content)

    return attack


def _knotted(table: str) -> Attack:
    """A tree in which every branch of a level leads to the same page: rows without end."""

    def attack(trace: Path) -> None:
        with closing(sqlite3.connect(trace / DATABASE)) as database:
            (page_size,) = database.execute("PRAGMA page_size").fetchone()
            sql = "SELECT rootpage FROM sqlite_master WHERE name = ?"
            root = 1 if table == "sqlite_master" else database.execute(sql, (table,)).fetchone()[0]
        raw = bytearray((trace / DATABASE).read_bytes())
        count = len(raw) // page_size
        # The old root, on a page of its own, is the bottom; SQLite goes down twenty levels.
        start = 100 if root == 1 else 0
        bottom = bytearray(raw[(root - 1) * page_size : root * page_size])
        if start:
            cells = struct.unpack(">H", bottom[start + 3 : start + 5])[0]
            head = bottom[start : start + 8 + 2 * cells]
            bottom[: len(head)] = head
        pages = [bytes(bottom)]
        for _ in range(15):
            pages.append(_branches(count + len(pages), page_size, 0))
        raw[(root - 1) * page_size + start : root * page_size] = _branches(
            count + len(pages), page_size - start, start
        )
        raw += b"".join(pages)
        raw[28:32] = struct.pack(">I", len(raw) // page_size)
        raw[92:96] = raw[24:28]  # the count is valid for this version of the file
        (trace / DATABASE).write_bytes(raw)

    return attack


def _branches(child: int, size: int, start: int, cells: int = 50) -> bytes:
    """A page of a tree whose every branch is one page."""
    content = b"".join(struct.pack(">I", child) + bytes([n]) for n in range(cells))
    first = start + size - len(content)
    offsets = b"".join(struct.pack(">H", first + 5 * n) for n in range(cells))
    head = struct.pack(">BHHHBI", 5, 0, cells, first, 0, child)
    return (head + offsets).ljust(size - len(content), b"\0") + content


# --- files that are none


def _files() -> dict[str, Attack]:
    found = dict[str, Attack]()
    names = ("manifest.json", DATABASE, "shards", "shards/s0000-f000001.safetensors")
    beside = tuple(f"{DATABASE}-{end}" for end in ("wal", "shm", "journal"))
    for name in (*names, *beside):
        found[f"{name} is a link out of the folder"] = _linked(name)
        found[f"{name} is a pipe"] = _instead(name, os.mkfifo)
        found[f"{name} is a socket"] = _instead(name, _socket)
        found[f"{name} is a link to a device"] = _instead(name, lambda p: p.symlink_to("/dev/zero"))
        found[f"{name} is a link to itself"] = _instead(name, lambda p: p.symlink_to(p))
        found[f"{name} is a folder"] = _instead(name, lambda p: p.mkdir())
        found[f"{name} is a file"] = _instead(name, lambda p: p.write_bytes(b"\x00" * 100))
        if name != "shards":
            found[f"{name} is a hole of 1 TB"] = _instead(name, _hole)
            found[f"{name} is a hole of 1 GB"] = _instead(name, _small_hole)
            found[f"{name} has a second name"] = _second_name(name)
    return found


def _linked(name: str) -> Attack:
    def attack(trace: Path) -> None:
        outside = trace.with_name("outside")
        shutil.rmtree(outside, ignore_errors=True)
        outside.mkdir()
        target = outside / Path(name).name
        if (trace / name).exists():
            (trace / name).rename(target)
        else:
            target.write_bytes(b"precious")
        (trace / name).symlink_to(target)

    return attack


def _instead(name: str, make: Callable[[Path], object]) -> Attack:
    def attack(trace: Path) -> None:
        path = trace / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        make(path)

    return attack


def _socket(path: Path) -> None:
    # The system allows only short names for sockets.
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


def _hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _small_hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def _second_name(name: str) -> Attack:
    def attack(trace: Path) -> None:
        (trace / name).touch()
        outside = trace.with_name("second")
        outside.unlink(missing_ok=True)
        outside.hardlink_to(trace / name)

    return attack


# --- shards, with an index that agrees


def _shards() -> dict[str, Attack]:
    one = {"dtype": "F32", "shape": [8, 32], "data_offsets": [0, 1024]}
    positions = {"dtype": "I32", "shape": [8], "data_offsets": [1024, 1056]}
    here = {"state.2.values": one, "state.2.positions": positions}
    tera = one | {"shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}
    return {
        "a shard whose header has 2^63 bytes": _shard((1 << 63).to_bytes(8, "little") + b"{}"),
        "a shard whose header has 50 MB": _shard(
            (50_000_000).to_bytes(8, "little") + b"{" + b" " * 49_999_999
        ),
        "an empty shard": _shard(b""),
        "a shard of nested lists": _shard(_framed(b"[" * 100_000)),
        "a shard with a tensor of 4 TB": _shard(_safetensors(here | {"state.2.values": tera})),
        "a shard whose tensors overlap": _shard(
            _safetensors(here | {"state.2.positions": positions | {"data_offsets": [0, 32]}})
        ),
        "a shard with negative sizes": _shard(
            _safetensors(here | {"state.2.values": one | {"shape": [-8, -32]}})
        ),
        "a shard whose shape overflows": _shard(
            _safetensors(here | {"state.2.values": one | {"shape": [1 << 63, 1 << 63, 0]}})
        ),
        "a shard of no known dtype": _shard(
            _safetensors(here | {"state.2.values": one | {"dtype": "PICKLE"}})
        ),
        "a shard of 8-bit numbers": _shard(
            _safetensors(here | {"state.2.values": one | {"dtype": "F8_E4M3", "shape": [32, 32]}})
        ),
        "a shard of whole numbers": _shard(
            _safetensors(here | {"state.2.values": one | {"dtype": "I32"}})
        ),
        "a shard with a name twice": _shard(
            _framed(
                json.dumps(here).encode()[:-1]
                + b',"state.2.values":'
                + json.dumps(one).encode()
                + b"}"
            )
            + bytes(1056)
        ),
        "positions outside the canvas": _tensor(np.arange(100, 108, dtype=np.int32)),
        "negative positions": _tensor(-np.arange(1, 9, dtype=np.int32)),
        "a position twice": _tensor(np.full(8, 5, np.int32)),
        "positions of another type": _tensor(np.arange(3, 11, dtype=np.int64)),
    }


def _framed(head: bytes) -> bytes:
    return len(head).to_bytes(8, "little") + head


def _safetensors(head: Mapping[str, object]) -> bytes:
    return _framed(json.dumps(head).encode()) + bytes(1056)


def _shard(raw: bytes) -> Attack:
    """Another content of a shard, of a size that the index knows."""

    def attack(trace: Path) -> None:
        (trace / "shards" / "s0000-f000001.safetensors").write_bytes(raw)
        where = {"forward": 1, "tap": "state"}
        shape = {"rows": 8, "width": 32, "dtype": "float32", "bytes": 1024}
        names: dict[str, Value] = {"positions": "state.2.positions", "shard_bytes": len(raw)}
        signed(trace, "tensors", where, {**shape, **names})

    return attack


def _tensor(positions: np.ndarray) -> Attack:
    """A shard with these positions, and right checksums."""

    def attack(trace: Path) -> None:
        values, key = np.zeros((8, 32), np.float32), TensorKey(1, Tap.STATE, 2)
        code = "I64" if positions.itemsize == 8 else "I32"
        stop = 1024 + positions.nbytes
        head = {
            "state.2.values": {"dtype": "F32", "shape": [8, 32], "data_offsets": [0, 1024]},
            "state.2.positions": {"dtype": code, "shape": [8], "data_offsets": [1024, stop]},
        }
        raw = _framed(json.dumps(head).encode()) + values.tobytes() + positions.tobytes()
        (trace / "shards" / "s0000-f000001.safetensors").write_bytes(raw)
        content = Checksums(read_manifest(trace).run).tensor(0, key, positions, values)
        changes: dict[str, Value] = {"rows": 8, "width": 32, "dtype": "float32", "bytes": 1024}
        changes |= {"positions": "state.2.positions", "shard_bytes": len(raw), "content": content}
        signed(trace, "tensors", {"forward": 1, "tap": "state"}, changes)

    return attack


def signed(
    trace: Path, table: str, where: Mapping[str, Value], changes: Mapping[str, Value]
) -> None:
    """Change columns of the rows of a table, and give them the checksums of what they are now."""
    checksums = Checksums(read_manifest(trace).run)
    with closing(sqlite3.connect(trace / DATABASE)) as database:
        database.row_factory = sqlite3.Row
        condition = " AND ".join(f"{name} = ?" for name in where)
        found = database.execute(f"SELECT * FROM {table} WHERE {condition}", (*where.values(),))
        for row in found.fetchall():
            values = {**dict(row), **changes}
            del values["checksum"]
            checksum = checksums.row(table, *values.values())
            columns = {**changes, "checksum": checksum}
            assign = ", ".join(f"{name} = ?" for name in columns)
            database.execute(
                f"UPDATE {table} SET {assign} WHERE id = ?", (*columns.values(), row["id"])
            )
        database.commit()


# --- values that a writer would not write


def _values() -> dict[str, Attack]:
    found = dict[str, Attack]()
    for name, value in (
        ("gen_length", 1 << 40),
        ("gen_length", -1),
        ("vocab_size", 10**18),
        ("num_layers", -1),
        ("prompt_ids", (-1, 2, 3)),
        ("prompt_ids", (10**18,)),
        ("mask_id", -(10**18)),
        ("eos_id", 1 << 62),
        ("prompt_ids", ()),
        ("settings", {"skip": "cosine:skip_threshold=nan"}),
        ("settings", {"skip": "cosine:skip_threshold=one"}),
        ("settings", {"cache": "\x1b[2J" * 1000}),
        ("model", "x" * 100_000),
    ):
        found[f"header: {name} is {ascii(value)[:30]}"] = _again(
            header=lambda h, n=name, v=value: _with(h, n, v)
        )
    for name, value in (
        ("tokens", (-1,)),
        ("tokens", ()),
        ("num_forwards", -1),
        ("masks_left", 10**18),
        ("seconds", float("nan")),
        ("skip_share", float("inf")),
        ("text", "\x1b]0;owned\x07\u202e" * 1000),
    ):
        found[f"outcome: {name} is {ascii(value)[:30]}"] = _again(
            outcome=lambda o, n=name, v=value: _with(o, n, v)
        )
    for name, value in _wrong_steps():
        found[f"step: {name} is {ascii(value)[:40]}"] = _again(
            step=lambda s, n=name, v=value: _replaced(s, n, v)
        )
    return found


def _wrong_steps() -> list[tuple[str, object]]:
    some = np.array([1, 2], np.int32)
    return [
        ("block", -1),
        ("block", 1 << 62),
        ("step", -5),
        ("block_start", -3),
        ("block_stop", 1 << 40),
        ("block_stop", 0),
        ("skip_layer", -1),
        ("skip_layer", 1 << 60),
        ("seconds", float("inf")),
        ("positions_from", "\x1b[31m" * 100),
        ("ids_before", some),
        ("ids_after", np.full(16, -7, np.int32)),
        ("status_before", np.zeros(0, np.uint8)),
        ("status_after", np.full(99, 2, np.uint8)),
        ("rows", np.array([-1], np.int32)),
        ("rows", np.array([10**6], np.int32)),
        ("finished", np.array([-(2**31)], np.int32)),
        ("entered_age", some),
        ("finished_age", np.full(19, -2, np.int32)),
        ("candidates.position", -1),
        ("candidates.position", 10**6),
        ("candidates.token", -1),
        ("candidates.runner_up", -(2**31)),
        ("candidates.confidence", float("nan")),
        ("candidates.rank", -1),
        ("judgements.position", 10**6),
        ("judgements.position", -1),
        ("judgements.similarity", float("nan")),
    ]


def _replaced(step: StepRecord, name: str, value: object) -> StepRecord:
    owner, _, column = name.rpartition(".")
    if not owner:
        return _with(step, name, value)
    columns = getattr(step, owner)
    if columns is None:
        return step
    filled = np.full_like(getattr(columns, column), value)
    return _with(step, owner, _with(columns, column, filled))


def _with(record: T, name: str, value: object) -> T:
    """A copy of a frozen record with one field changed, to whatever it is."""
    changed = copy(record)
    object.__setattr__(changed, name, value)
    return changed


def _again(
    header: Callable[[Header], Header] = lambda h: h,
    step: Callable[[StepRecord], StepRecord] = lambda s: s,
    outcome: Callable[[Outcome], Outcome] = lambda o: o,
) -> Attack:
    """The trace written again by the writer itself, with other values."""

    def attack(trace: Path) -> None:
        shutil.rmtree(trace)
        with TraceWriter(trace) as writer:
            writer.begin([header(made_up.header())], "full")
            for forward in range(4):
                writer.step(0, step(made_up.step(forward)), made_up.tensors(forward))
            writer.event(0, made_up.event())
            writer.end([outcome(made_up.outcome())])

    return attack


# --- texts


def _texts() -> dict[str, Attack]:
    header = "UPDATE samples SET header = "
    return {
        "a header that is no UTF-8": sql(f"{header}CAST(x'7b22fffe' AS TEXT)"),
        "a header with a NUL": sql(f"{header}'{{}}' || char(0)"),
        "a header of nested lists": sql(f"{header}'{'[' * 200_000}'"),
        "a header of numbers": sql(f"{header}'[{'9' * 100_000}]'"),
        "an event that is no UTF-8": sql("UPDATE events SET event = CAST(x'ff' AS TEXT)"),
        "an event of a million lists": _event("[" + "[]," * 1_000_000 + "[]]"),
        "an event of nested objects": _event('{"a":' * 50_000 + "1" + "}" * 50_000),
        "an event with a long name": _event(json.dumps({"x" * 1_000_000: 1})),
        "an event with a name twice": _event('{"kind": "a", "kind": "b", "message": "c"}'),
        "an event of 10^400": _event(
            '{"kind": "a", "message": "b", "numbers": {"x": 1' + "0" * 400 + "}}"
        ),
        "an event with a float for a count": _event('{"kind": "a", "message": "b", "count": 1.5}'),
        "an event that steers the terminal": _event(
            json.dumps({"kind": "\x1b[2J", "message": "\x9b31m\u202e" * 2000, "source": "\r\n\x00"})
        ),
    }


def _event(text: str) -> Attack:
    return lambda trace: signed(trace, "events", {"id": 1}, {"event": text})
