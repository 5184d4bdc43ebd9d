"""The database of a trace, opened so that nothing in the file can do more than be read.

A database can carry code: triggers, views, defaults, virtual tables. So the schema must be ours to
the letter before a row is read, and whatever slips through meets an authorizer that allows reading
the tables of a trace and nothing else. A database can also be knotted so that a small file has rows
without end; so work and memory are held against the bytes that lie on the disk.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path

from skipstone.errors import TraceError
from skipstone.quoting import shown
from skipstone.record.damage import DAMAGE, damaged
from skipstone.record.folder import LOG, check_files, plain_file
from skipstone.record.store import DATABASE, MAX_ROW

SqlRow = tuple[object, ...]

_OURS = {"samples", "steps", "tensors", "events", "experiments"}
_READ = _OURS | {"sqlite_master", "sqlite_sequence"}
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_ROW,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1 << 16,
    sqlite3.SQLITE_LIMIT_COLUMN: 64,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 32,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 4,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 4,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 32,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
# Steps of SQLite's machine that any statement may take, some hundredths of a second, and one more
# for each byte of the file: a row takes less than 30, and has hundreds of bytes.
_WORK = 1_000_000
_GLANCE = 10_000
_LARGEST_COPY = 1 << 28
_TOO_MUCH = "its rows hold more than the file does"


class Database:
    """A connection that has proved to be the database of a trace; close it."""

    def __init__(self, connection: sqlite3.Connection, folder: Path, *, writing: bool) -> None:
        """Take over a connection, and switch off all that a trace does not need.

        Args:
            connection: nothing was read by it yet.
            folder: of the trace.
            writing: an experiment may be added.
        """
        self._connection = connection
        self._files = (folder / DATABASE, folder / LOG)
        self._size = 0
        self._left = self._worth()
        connection.set_progress_handler(self._tired, _GLANCE)
        _harden(connection, writing=writing)

    def rows(self, sql: str, *values: str | int) -> Iterator[SqlRow]:
        """Rows of a statement, drawn one at a time; draw them all.

        Raises:
            sqlite3.Error: the file is damaged, or asks for more work than it can be worth.
            ValueError: the rows hold more than the file.
        """
        self._left = left = self._worth()
        for row in self._connection.execute(sql, values):
            left -= sum(len(value) for value in row if isinstance(value, (str, bytes)))
            if left < 0:
                raise ValueError(_TOO_MUCH)
            yield row

    def check_size(self, nbytes: int) -> None:
        """Refuse values that are, together, larger than the file.

        Raises:
            ValueError: they are.
        """
        if nbytes > self._size:
            raise ValueError(_TOO_MUCH)

    def insert(self, sql: str, values: tuple[str | int | bytes, ...]) -> None:
        """Add a row."""
        self._left = self._worth()
        self._connection.execute(sql, values)

    def close(self) -> None:
        """Let go of the files."""
        self._connection.close()

    def _worth(self) -> int:
        """The work that a statement may take; the file grows while the run goes on."""
        found = [plain_file(path) for path in self._files]
        self._size = max(self._size, sum(file.st_size for file in found if file is not None))
        return _WORK + self._size

    def _tired(self) -> int:
        """Whether a statement has taken more work than a file of this size can need."""
        self._left -= _GLANCE
        return int(self._left < 0)

    def check_tables(self, tables: str) -> None:
        """Refuse a database with anything but the tables of a trace, to the letter.

        Raises:
            ValueError: it has something else, or lacks something.
        """
        found = set[SqlRow]()
        for row in self.rows("SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 32"):
            if row not in _expected(tables):
                kind, name = str(row[0])[:20], str(row[1])[:40]
                raise ValueError(f"it has a {kind} {shown(name)} that no trace has")
            found.add(row)
        if missing := sorted(str(row[1]) for row in _expected(tables) - found):
            raise ValueError(f"it has no table {missing[0]!r}")


def _harden(connection: sqlite3.Connection, *, writing: bool) -> None:
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_TRUSTED_SCHEMA, False)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, False)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_VIEW, False)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA mmap_size = 0")
    if not writing:
        connection.execute("PRAGMA query_only = ON")
    connection.set_authorizer(_may_write if writing else _may_read)


@contextmanager
def open_for_writing(folder: Path, tables: str) -> Generator[Database, None, None]:
    """The database in a transaction, to add something to it: all of it or nothing.

    Raises:
        TraceError, sqlite3.Error, ValueError: it is no database of a trace, or cannot be written.
    """
    check_files(folder)
    with closing(_connect(folder, "mode=rw")) as connection:
        database = Database(connection, folder, writing=True)
        connection.execute("BEGIN IMMEDIATE")
        database.check_tables(tables)
        yield database
        connection.execute("COMMIT")


def open_for_reading(folder: Path, tables: str) -> Database:
    """The database of a trace, also where nothing can be written.

    Raises:
        TraceError: it is missing, or is no database of a trace.
    """
    check_files(folder)
    if plain_file(folder / DATABASE) is None:
        raise TraceError(f"the trace {str(folder)!r} has no {DATABASE}; copy it again")
    try:
        log = plain_file(folder / LOG)
        if log is None or log.st_size == 0:
            # Nothing beside the file counts, and no file is made beside it.
            return _open(folder, "mode=ro&immutable=1", tables)
        try:
            return _open(folder, "mode=ro", tables)
        except sqlite3.OperationalError:
            # An unfinished trace wants a file for shared memory beside it, even to be read.
            return _copied(folder, tables)
    except DAMAGE as error:
        raise damaged(folder, DATABASE, error) from error


def _open(folder: Path, how: str, tables: str) -> Database:
    connection = _connect(folder, how)
    try:
        database = Database(connection, folder, writing=False)
        database.check_tables(tables)
    except BaseException:
        connection.close()
        raise
    return database


def _connect(folder: Path, how: str) -> sqlite3.Connection:
    """A connection that any thread may use; reads nothing yet."""
    uri = f"{(folder.resolve() / DATABASE).as_uri()}?{how}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def _copied(folder: Path, tables: str) -> Database:
    """A database with a log in a folder where no file can be made, copied to where one can."""
    size = sum((folder / name).lstat().st_size for name in (DATABASE, LOG))
    if size > _LARGEST_COPY:
        raise ValueError(
            f"it is unfinished, in a folder that cannot be written to, and too large to be "
            f"copied ({size} bytes); copy the trace to where you can write"
        )
    with tempfile.TemporaryDirectory() as copied:
        for name in (LOG, DATABASE):
            shutil.copyfile(folder / name, Path(copied, name), follow_symlinks=False)
        # The files stay open when their names go.
        return _open(Path(copied), "mode=ro", tables)


@lru_cache
def _expected(tables: str) -> frozenset[SqlRow]:
    """What the tables of a trace look like in SQLite's own list of them."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(tables)
        rows = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
        return frozenset(rows)


def _may_read(
    action: int, first: str | None, second: str | None, base: str | None, inside: str | None
) -> int:
    """Allow reading the tables of a trace, from no trigger and no view."""
    allowed = (
        action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_TRANSACTION)
        or (action == sqlite3.SQLITE_READ and first in _READ)
        or (action == sqlite3.SQLITE_FUNCTION and second == "length")
    )
    return sqlite3.SQLITE_OK if allowed and inside is None else sqlite3.SQLITE_DENY


def _may_write(
    action: int, first: str | None, second: str | None, base: str | None, inside: str | None
) -> int:
    """Allow adding an experiment besides."""
    if action == sqlite3.SQLITE_INSERT and first == "experiments" and inside is None:
        return sqlite3.SQLITE_OK
    return _may_read(action, first, second, base, inside)
