"""Ways to change a recorded trace. Every case has a name, and follows from a seed alone.

``mutations`` yields them for one trace: bits, blocks, truncations and deletions of every file,
files in each other's places, every column of every table, rows that are lost, doubled or exchanged,
and the same with another run's files and rows. ``silently_changed`` says whether a reader lets one
pass.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from skipstone.errors import TraceError
from skipstone.record import StepRecord, StoredTrace, TensorKey, open_trace
from skipstone.record.packing import pack_arrays

Content = dict[str, bytes]
"""Everything that a reader gives, by a name; arrays bit for bit."""

Cell = int | str

BLOCK = 512
DATABASE = "trace.sqlite"


@dataclass(frozen=True)
class Mutation:
    """One change of a trace."""

    name: str
    apply: Callable[[Path], None]
    """Changes the trace in a folder."""


def mutations(
    trace: Path, other: Path, seed: int, *, flips: int = 4, rows: int = 1
) -> Iterator[Mutation]:
    """Changes of a trace that are tried one at a time.

    Args:
        trace: a finished trace.
        other: a trace of another run, from which files and rows are taken.
        seed: of the places that are drawn.
        flips: bits that are flipped in every file, one in each of as many regions.
        rows: how many rows of every table are edited, in every column.
    """
    rng = random.Random(seed)
    files = sorted(path.relative_to(trace) for path in trace.rglob("*") if path.is_file())
    for file in files:
        yield from _of_bytes(trace, file, rng, flips)
    yield from _of_files(files, other, rng)
    yield from _of_rows(trace / DATABASE, rng, rows)
    yield from _of_others_rows(trace / DATABASE, other / DATABASE, rng)
    yield from _of_manifest(trace)


# --- bytes


def _of_bytes(trace: Path, file: Path, rng: random.Random, flips: int) -> Iterator[Mutation]:
    size = (trace / file).stat().st_size
    for region in range(flips):
        start, stop = region * size // flips, (region + 1) * size // flips
        at = rng.randrange(start, max(start + 1, stop))
        bit = rng.randrange(8)
        yield Mutation(f"{file}: bit {bit} of byte {at}", _edit(file, _flipped(at, bit)))
    for length in sorted({0, 1, 8, size // 3, size // 2, size - 1, size // 4096 * 4096} - {size}):
        yield Mutation(f"{file}: cut to {length} bytes", _edit(file, _cut(length)))
    blocks = [rng.randrange(size // BLOCK + 1) * BLOCK for _ in range(4)]
    for start in blocks:
        fill = rng.randbytes(BLOCK) if rng.random() < 0.5 else bytes(BLOCK)
        yield Mutation(f"{file}: block at {start} written over", _edit(file, _over(start, fill)))
    for a, b in zip(blocks[::2], blocks[1::2], strict=True):
        yield Mutation(f"{file}: blocks at {a} and {b} exchanged", _edit(file, _exchanged(a, b)))
    yield Mutation(f"{file}: bytes added", _edit(file, lambda raw: raw + b"\0more"))
    yield Mutation(f"{file}: doubled", _edit(file, lambda raw: raw + raw))


def _edit(file: Path, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(trace: Path) -> None:
        raw = (trace / file).read_bytes()
        (trace / file).write_bytes(change(raw))

    return apply


def _flipped(at: int, bit: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]


def _cut(length: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:length]


def _over(start: int, fill: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: (raw[:start] + fill + raw[start + len(fill) :])[: len(raw)]


def _exchanged(a: int, b: int) -> Callable[[bytes], bytes]:
    def change(raw: bytes) -> bytes:
        first, second = raw[a : a + BLOCK], raw[b : b + BLOCK]
        if len(first) != len(second) or a == b:
            return raw
        return _over(b, first)(_over(a, second)(raw))

    return change


# --- files


def _of_files(files: Sequence[Path], other: Path, rng: random.Random) -> Iterator[Mutation]:
    shards = [file for file in files if file.parent.name == "shards"]
    for file in files:
        yield Mutation(f"{file}: deleted", lambda trace, file=file: (trace / file).unlink())
        if (other / file).exists():
            yield Mutation(f"{file}: another run's", _copied(other / file, file))
    yield Mutation("shards: deleted", lambda trace: shutil.rmtree(trace / "shards"))
    for a in shards:
        b = rng.choice([file for file in shards if file != a])
        yield Mutation(f"{a}: in it is {b.name}", _moved(b, a))


def _copied(source: Path, file: Path) -> Callable[[Path], None]:
    return _edit(file, lambda _: source.read_bytes())


def _moved(source: Path, file: Path) -> Callable[[Path], None]:
    def apply(trace: Path) -> None:
        (trace / file).write_bytes((trace / source).read_bytes())

    return apply


# --- rows


def _of_rows(database: Path, rng: random.Random, count: int) -> Iterator[Mutation]:
    for table, columns in tables(database).items():
        ids = [row for (row,) in query(database, f"SELECT rowid FROM {table}")]
        yield Mutation(f"{table}: emptied", _sql(f"DELETE FROM {table}"))
        for row in rng.sample(ids, min(count, len(ids))):
            where = f"WHERE rowid = {row}"
            yield Mutation(f"{table} {row}: deleted", _sql(f"DELETE FROM {table} {where}"))
            yield Mutation(f"{table} {row}: doubled", _sql(_doubled(table, columns, where)))
            for column in columns:
                for value in ("NULL", "1", "'x'", "x'00'", "-1", "9223372036854775807", "1e999"):
                    change = f"UPDATE OR IGNORE {table} SET {column} = {value} {where}"
                    yield Mutation(f"{table} {row}: {column} = {value}", _sql(change))
                little = f"UPDATE OR IGNORE {table} SET {column} = {_little(column)} {where}"
                yield Mutation(f"{table} {row}: {column} a little different", _sql(little))
        if len(ids) > 1:
            for column in columns:
                a, b = rng.sample(ids, 2)
                yield Mutation(
                    f"{table}: {column} of {a} and {b} exchanged", _swapped(table, [column], a, b)
                )
            a, b = rng.sample(ids, 2)
            name = f"{table}: {a} and {b} exchanged"
            yield Mutation(name, _swapped(table, columns[1:], a, b))


def _doubled(table: str, columns: Sequence[str], where: str) -> str:
    first, *rest = columns
    row = ", ".join((f"{first} + 1000", *rest))
    return f"INSERT OR IGNORE INTO {table} SELECT {row} FROM {table} {where}"


def _little(column: str) -> str:
    """A value next to what is there, of the same type."""
    return (
        f"CASE typeof({column}) WHEN 'integer' THEN {column} + 1 WHEN 'real' THEN {column} + 1e-9 "
        f"WHEN 'text' THEN {column} || ' ' WHEN 'blob' THEN {column} || x'00' ELSE 0 END"
    )


def _sql(*statements: str) -> Callable[[Path], None]:
    def apply(trace: Path) -> None:
        with closing(sqlite3.connect(trace / DATABASE)) as database:
            # A row's number takes only numbers: then nothing is changed.
            with suppress(sqlite3.IntegrityError):
                for statement in statements:
                    database.execute(statement)
            database.commit()

    return apply


def _swapped(table: str, columns: Sequence[str], a: Cell, b: Cell) -> Callable[[Path], None]:
    def apply(trace: Path) -> None:
        read = f"SELECT {', '.join(columns)} FROM {table} WHERE rowid = ?"
        write = f"UPDATE {table} SET {', '.join(f'{c} = ?' for c in columns)} WHERE rowid = ?"
        with closing(sqlite3.connect(trace / DATABASE)) as database:
            first, second = (database.execute(read, (row,)).fetchone() for row in (a, b))
            if columns == ["id"] or columns == ["sample"]:
                database.execute(write, (1 << 40, a))  # out of the way
                database.execute(write, (*first, b))
                database.execute(write, (*second, 1 << 40))
            else:
                database.execute(write, (*second, a))
                database.execute(write, (*first, b))
            database.commit()

    return apply


def _of_others_rows(database: Path, other: Path, rng: random.Random) -> Iterator[Mutation]:
    """A whole row of another run, with its own checksum, in the place of one of this."""
    for table in tables(database):
        ids = [row for (row,) in query(database, f"SELECT rowid FROM {table}")]
        for row in rng.sample(ids, min(2, len(ids))):
            yield Mutation(
                f"{table} {row}: another run's",
                _sql(
                    f"ATTACH '{other}' AS other",
                    f"REPLACE INTO {table} SELECT * FROM other.{table} WHERE rowid = {row}",
                ),
            )


def tables(database: Path) -> dict[str, list[str]]:
    """The columns of every table, SQLite's own list of the highest ids too."""
    rows = query(database, "SELECT name FROM sqlite_master WHERE type = 'table'")
    return {
        str(name): [str(row[1]) for row in query(database, f"PRAGMA table_info({name})")]
        for (name,) in rows
    }


def query(database: Path, sql: str) -> list[tuple[Cell, ...]]:
    """Rows of a statement."""
    with closing(sqlite3.connect(database)) as opened:
        return opened.execute(sql).fetchall()


# --- the manifest


def _of_manifest(trace: Path) -> Iterator[Mutation]:
    whole = json.loads((trace / "manifest.json").read_text())
    values: tuple[object, ...] = (
        None,
        True,
        -1,
        0,
        10**18,
        1.5,
        "",
        "x",
        "\u202e" * 1000,
        [],
        {},
        [[]],
    )
    for key in whole:
        rest = {name: value for name, value in whole.items() if name != key}
        yield Mutation(f"manifest: no {key}", _manifest(json.dumps(rest)))
        twice = json.dumps(whole)[:-1] + f', "{key}": {json.dumps(whole[key])}}}'
        yield Mutation(f"manifest: {key} twice", _manifest(twice))
        for value in values:
            name = f"manifest: {key} is {ascii(value)[:20]}"
            yield Mutation(name, _manifest(json.dumps(whole | {key: value})))
        for text in ("NaN", "1e999", "9" * 5000, "[" * 100_000):
            changed = json.dumps(rest)[:-1] + f', "{key}": {text}}}'
            yield Mutation(f"manifest: {key} is {text[:8]}", _manifest(changed))
    yield Mutation("manifest: more", _manifest(json.dumps(whole | {"more": 1})))
    yield Mutation("manifest: large", _manifest(json.dumps(whole) + " " * 100_000))


def _manifest(text: str) -> Callable[[Path], None]:
    return _edit(Path("manifest.json"), lambda _: text.encode())


# --- what a reader says of it


def content(trace: StoredTrace) -> Content:
    """Everything in a trace.

    Raises:
        TraceError: something cannot be read.
    """
    found = {"manifest": repr(trace.manifest).encode()}
    for sample in range(len(trace.headers)):
        found[f"header {sample}"] = repr(trace.headers[sample]).encode()
        found[f"outcome {sample}"] = repr(trace.outcomes[sample]).encode()
        found[f"events {sample}"] = repr(trace.events(sample)).encode()
        for step in trace.steps(sample):
            found[f"step {sample} {step.forward}"] = _step(step)
        for key in trace.keys(sample):
            found[f"tensor {sample} {key}"] = _tensor(trace, sample, key)
    found["experiments"] = repr(trace.experiments).encode()
    return found


def _step(step: StepRecord) -> bytes:
    scalars = {n: v for n, v in asdict(step).items() if isinstance(v, (int, float, str))}
    return repr(scalars).encode() + pack_arrays(step)


def _tensor(trace: StoredTrace, sample: int, key: TensorKey) -> bytes:
    rows = trace.tensor(sample, key)
    assert rows is not None
    about = (rows.positions.tolist(), rows.values.dtype.name, rows.values.shape)
    return repr(about).encode() + rows.values.tobytes()


def silently_changed(trace: Path, recorded: Content) -> list[str]:
    """What a reader gives of a changed trace that is not what was recorded, and does not say so.

    It says so by a ``TraceError``, whatever else it gives, or by a hole for every missing step.

    Raises:
        Exception: the reader failed in a way of its own, which is a fault too.
    """
    said = list[str]()
    found, holes = _tried(trace, said)
    wrong = [name for name, value in found.items() if recorded.get(name) != value]
    missing = [name for name in recorded if name not in found]
    if not said and len([n for n in missing if n.startswith("step ")]) == holes > 0:
        missing = [n for n in missing if not n.startswith("step ")]
    assert all(len(line) < 500 and "\n" not in line for line in said), said
    return wrong + ([] if said else missing)


def _tried(trace: Path, said: list[str]) -> tuple[Content, int]:
    """As much as can be read, what is said about the rest, and the number of missing steps."""
    found, holes = Content(), 0

    def keep(name: str, read: Callable[[], object]) -> None:
        try:
            value = read()
            found[name] = value if isinstance(value, bytes) else repr(value).encode()
        except TraceError as error:
            said.append(str(error))

    try:
        opened = open_trace(trace)
    except TraceError as error:
        said.append(str(error))
        return found, holes
    with opened:
        keep("manifest", lambda: opened.manifest)
        for sample in range(len(opened.headers)):
            keep(f"header {sample}", lambda sample=sample: opened.headers[sample])
            keep(f"outcome {sample}", lambda sample=sample: opened.outcomes[sample])
            keep(f"events {sample}", lambda sample=sample: opened.events(sample))
            try:
                holes += sum(hole.steps for hole in opened.holes(sample))
                forwards, keys = opened.forwards(sample), opened.keys(sample)
            except TraceError as error:
                said.append(str(error))
                continue
            for forward in forwards:
                name = f"step {sample} {forward}"
                keep(name, lambda s=sample, f=forward: _step(opened.step(s, f)))
            for key in keys:
                name = f"tensor {sample} {key}"
                keep(name, lambda s=sample, k=key: _tensor(opened, s, k))
        keep("experiments", lambda: opened.experiments)
    return found, holes
