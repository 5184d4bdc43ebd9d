"""A trace made by an attacker: refused in one line or read, in bounded time and memory."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from skipstone.cli import main
from skipstone.cli.main import run
from skipstone.errors import SkipstoneError
from skipstone.record import open_trace
from skipstone.record.database import Database
from skipstone.record.store import DATABASE
from tests.fuzz.trace_attacks import attacks
from tests.helpers import synthetic_trace as made_up

ATTACKS = attacks()
EMPTIED = "DELETE FROM steps"
COMMANDS = (
    ("show", "{trace}"),
    ("show", "{trace}", "--json", "--steps"),
    ("show", "{trace}", "--step", "0.1"),
    ("show", "{trace}", "--verify"),
    ("diff", "{whole}", "{trace}"),
    ("diff", "{trace}", "{whole}", "--json"),
    ("export", "{trace}", "--to", "perfetto", "-o", "{out}.json"),
    ("export", "{trace}", "--to", "parquet", "-o", "{out}"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "whole.trace"
    made_up.write(path, forwards=4)
    return path


@pytest.fixture(scope="module", autouse=True)
def what_others_left() -> Iterator[None]:
    """Is not looked through again at every collection of garbage."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_in_one_line_or_does_nothing(
    name: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "attack.trace"
    shutil.copytree(whole, trace)
    ATTACKS[name](trace)
    before = listing(tmp_path)
    with peak() as grown:
        for number, command in enumerate(COMMANDS):
            places = {"trace": trace, "whole": whole, "out": tmp_path / f"written{number}"}
            arguments = [text.format(**places) for text in command]
            started = time.process_time()
            code = run(arguments)
            out, err = capsys.readouterr()
            assert time.process_time() - started < 5, arguments
            assert code in (0, 1, 2), arguments
            assert "internal error" not in err, err
            assert "Traceback" not in err, err
            assert all(len(line) < 500 for line in err.splitlines()), err
            shown = err if "--json" in command else out + err
            assert all(c.isprintable() or c == "\n" for c in shown), arguments
            for made in tmp_path.glob("written*"):
                shutil.rmtree(made) if made.is_dir() else made.unlink()
            # A user's command is a process of its own, and keeps no garbage of the one before.
            gc.collect()
    assert grown() < 256 << 20
    assert listing(tmp_path) == before


def test_a_refused_trace_keeps_no_file_open(whole: Path, tmp_path: Path) -> None:
    names = [name for name in ATTACKS if "million" not in name and "MB" not in name]
    kept, before = list[SkipstoneError](), open_files()
    for number, name in enumerate(names):
        trace = tmp_path / str(number)
        shutil.copytree(whole, trace)
        ATTACKS[name](trace)
        try:
            with open_trace(trace) as opened:
                opened.add_experiment("key", "{}", "{}")
                for key in opened.keys(0):
                    opened.tensor(0, key)
        except SkipstoneError as error:
            # As long as the error lives, so do the frames that it came through.
            kept.append(error)
    assert len(kept) > len(names) / 2
    assert open_files() == before
    with open_trace(whole):
        assert open_files() > before  # control: one would be seen


def test_a_command_that_fails_keeps_no_file_open(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = shutil.copytree(whole, tmp_path / "broken.trace")
    ATTACKS["a trigger deletes steps"](broken)
    kept = list[BaseException | None]()

    def fail(*arguments: object) -> int:
        kept.append(sys.exc_info()[1])
        return 2

    monkeypatch.setattr(main, "_fail", fail)
    before = open_files()
    for command in (
        ["show", broken],
        ["show", whole, "--sample", "5"],
        ["show", whole, "--step", "99.0"],
        ["diff", whole, broken],
        ["diff", broken, whole],
        ["diagnose", whole, broken],
        ["report", whole, whole, broken, "-o", tmp_path / "report.html"],
        ["step", whole, "--at", "0.1"],
        ["export", broken, "--to", "perfetto", "-o", tmp_path / "out.json"],
    ):
        assert run([str(word) for word in command]) == 2
    assert len(kept) == 9
    assert None not in kept
    assert open_files() == before


@pytest.mark.parametrize("writing", [False, True])
def test_a_schema_may_call_no_function_of_ours(
    whole: Path, tmp_path: Path, *, writing: bool
) -> None:
    """``trusted_schema`` alone, which every Python can switch off: no view and no authorizer."""
    trace = shutil.copytree(whole, tmp_path / "attack.trace")
    called = list[int]()

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(trace / DATABASE, isolation_level=None)
        connection.create_function("reach", 1, called.append, deterministic=True)
        return connection

    with closing(connect()) as connection:
        connection.execute("CREATE TABLE bait (a, b AS (reach(a)))")
        connection.execute("INSERT INTO bait VALUES (7)")
        connection.execute("SELECT b FROM bait").fetchall()
        # The control: whoever trusts the file calls it.
        assert 7 in called
    called.clear()
    with closing(connect()) as connection:
        Database(connection, trace, writing=writing)
        connection.set_authorizer(None)
        with pytest.raises(sqlite3.DatabaseError, match="unsafe use of reach"):
            connection.execute("SELECT b FROM bait").fetchall()
    assert called == []


# Older Pythons cannot tell SQLite so; there the check of the schema and the authorizer stand alone.
@pytest.mark.skipif(sys.version_info < (3, 12), reason="Connection.setconfig came with 3.12")
@pytest.mark.parametrize("writing", [False, True])
def test_sqlite_itself_distrusts_the_file(whole: Path, tmp_path: Path, writing: bool) -> None:
    """Without the authorizer, so that nothing else stands in the way of an attack."""
    trace = shutil.copytree(whole, tmp_path / "attack.trace")
    with closing(sqlite3.connect(trace / DATABASE, isolation_level=None)) as connection:
        connection.execute("CREATE VIEW v AS SELECT * FROM steps")
        connection.execute(f"CREATE TRIGGER t AFTER INSERT ON events BEGIN {EMPTIED}; END")
        many = connection.execute("SELECT count(*) FROM steps").fetchone()
    with closing(sqlite3.connect(trace / DATABASE, isolation_level=None)) as connection:
        Database(connection, trace, writing=writing)
        connection.set_authorizer(None)
        for sql, why in (
            ("SELECT * FROM v", "access to view"),
            ("DELETE FROM sqlite_master", "may not be modified"),
        ):
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("PRAGMA query_only = OFF")
            with pytest.raises(sqlite3.OperationalError, match=why):
                connection.execute(sql)
        row = connection.execute("SELECT * FROM events LIMIT 0").description
        values = ", ".join(str(1000 + number) for number in range(len(row)))
        connection.execute(f"INSERT INTO events VALUES ({values})")
        assert connection.execute("SELECT count(*) FROM steps").fetchone() == many


def open_files() -> set[str]:
    """What the process has open, without pipes and what the tests themselves look at."""
    found = set[str]()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(os.readlink(link))
    return {name for name in found if ".trace" in name or "/pytest-" in name}


def listing(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every name below a folder, with size and kind; nothing is followed."""
    # SQLite makes files of its own beside an unfinished database.
    own = {folder / "attack.trace" / f"trace.sqlite-{end}" for end in ("wal", "shm")}
    found = {path: path.lstat() for path in folder.rglob("*") if path not in own}
    return {path: (state.st_size, state.st_mode) for path, state in found.items()}


@contextmanager
def peak() -> Generator[Callable[[], int], None, None]:
    """How many bytes the process has grown by at most, since the block began."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    yield lambda: status("VmHWM") - before


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
