"""Outputs are whole or absent: at any context, after a kill, on a full disk, and beside others."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from skipstone import OutputError, SkipstoneError
from skipstone.cli.main import run
from skipstone.outputs import (
    check_apart,
    check_append,
    check_output,
    is_part,
    one_writer,
    whole_file,
    whole_folder,
    write_whole,
)
from skipstone.testing.checkpoint import write_checkpoint
from tests.conftest import ROOT
from tests.helpers import synthetic_trace as made_up
from tests.record.test_store import as_nobody

WRITES = """
import sys, time
from pathlib import Path
from skipstone.outputs import whole_file, whole_folder
with {what}(Path(sys.argv[1])) as part:
    target = part / "table" if part.is_dir() else part
    target.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


@contextmanager
def being_written(path: Path, what: str = "whole_file") -> Iterator[subprocess.Popen[str]]:
    """Another process that has written half of an output."""
    command = [sys.executable, "-c", WRITES.format(what=what), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def make(path: Path, what: str) -> None:
    if what == "whole_file":
        write_whole(path, "new")
    else:
        with whole_folder(path) as part:
            (part / "table").write_text("new")


def content(path: Path) -> str:
    return (path / "table" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("what", ["whole_file", "whole_folder"])
def test_a_killed_writer_leaves_nothing_that_looks_finished_and_the_next_replaces_it(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / "out"
    with being_written(path, what) as process:
        assert not path.exists()
        process.send_signal(signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert left.name == ".out.part"
    assert is_part(left)
    check_output(path)
    make(path, what)
    assert content(path) == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("what", ["whole_file", "whole_folder"])
def test_two_writers_of_one_output_do_not_mix(tmp_path: Path, what: str) -> None:
    path = tmp_path / "out"
    with being_written(path, what):
        for attempt in (check_output, partial(make, what=what)):
            with pytest.raises(OutputError, match="is being written by another process; wait"):
                attempt(path)
        assert (tmp_path / ".out.part").exists()


@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("answers.jsonl", "generate --batch-file PROMPTS"),
        ("sweep", "sweep --prompts PROMPTS --grid cache=dual --gen-length 8"),
    ],
)
def test_what_is_added_to_has_one_writer_at_a_time(
    place: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, output = tmp_path / "prompts.txt", tmp_path / place
    prompts.write_text("Newton")
    if place == "sweep":
        output.mkdir()
    with one_writer(output):
        before = list(tmp_path.rglob("*.json*"))
        assert run([*command.replace("PROMPTS", str(prompts)).split(), "-o", str(output)]) == 2
        assert "is being written by another process" in capsys.readouterr().err
        assert list(tmp_path.rglob("*.json*")) == before
    with one_writer(output):  # it is free again
        pass


def test_a_file_is_replaced_in_one_go_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with suppress(ZeroDivisionError), whole_file(path) as part:
        part.write_text("half")
        assert path.read_text() == "old"
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_whole(path, "new")
    assert path.read_text() == "new"


def test_permissions_are_those_of_the_umask_or_of_the_file_that_was_there(tmp_path: Path) -> None:
    old, new, folder = tmp_path / "old", tmp_path / "new", tmp_path / "folder"
    old.write_text("secret")
    old.chmod(0o600)
    before = os.umask(0o027)
    try:
        write_whole(old, "a")
        write_whole(new, "b")
        make(folder, "whole_folder")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (old, new, folder, folder / "table")]
    assert [oct(mode) for mode in modes] == ["0o600", "0o640", "0o750", "0o640"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "link", tmp_path / "there" / "page.html"
    link.symlink_to(target)
    write_whole(link, "new")  # where nothing was
    write_whole(link, "newer")
    assert link.is_symlink()
    assert target.read_text() == "newer"
    assert list(target.parent.iterdir()) == [target]
    round_and_round = tmp_path / "loop"
    round_and_round.symlink_to(round_and_round)
    with pytest.raises(OutputError, match="Too many levels"):
        check_output(round_and_round)
    assert round_and_round.is_symlink()


def test_a_part_that_is_a_link_of_someone_else_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".page.part").symlink_to(victim)
    with pytest.raises(OutputError, match="cannot be written"):
        write_whole(tmp_path / "page", "new")
    assert victim.read_text() == "mine"


def test_paths_that_cannot_be_written_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    cases = {
        tmp_path: "it is a folder",
        tmp_path / "missing" / "x": "No such file",
        tmp_path / "missing" / ".." / "x": "No such file",
        file / "x": "Not a directory",
        tmp_path / ("x" * 300): "File name too long",
        tmp_path / "a\0b": "no file can have this name",
        tmp_path / "\ud800": "no file can have this name",
    }
    for path, reason in cases.items():
        for attempt in (check_output, partial(write_whole, content="new")):
            with pytest.raises(OutputError) as raised:
                attempt(path)
            assert reason in str(raised.value), raised.value
            assert "give another path" in str(raised.value)
    for attempt in (partial(check_output, replace=False), partial(make, what="whole_folder")):
        with pytest.raises(OutputError, match=r"exists already.*choose another path"):
            attempt(file)
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "mine"


def test_the_longest_name_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_whole(path, "new")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_write_protected_is_refused() -> None:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "file")
        file.write_text("mine")
        file.chmod(0o444)
        Path(name).chmod(0o777)
        with as_nobody() as folder:
            for path in (file, folder / "page.html"):
                with pytest.raises(OutputError, match=r"write-protected|Permission denied"):
                    check_output(path)
            with pytest.raises(OutputError, match="Permission denied"):
                check_append(file)
        assert file.read_text() == "mine"


# --- pipes and devices ----------------------------------------------------------------------------


def test_devices_and_pipes_are_written_to_and_stay(tmp_path: Path) -> None:
    check_output(Path("/dev/null"))
    write_whole(Path("/dev/null"), "gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="cannot be written"):
        write_whole(pipe, "nobody reads")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "read")
    assert os.read(reader, 100) == b"read"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_a_full_device_is_refused_at_once() -> None:
    with pytest.raises(OutputError, match="No space left"):
        check_output(Path("/dev/full"))


def test_standard_output_is_joined_and_not_replaced(tmp_path: Path) -> None:
    code = "from skipstone.outputs import *; from pathlib import Path; print('one');"
    code += "write_whole(Path('/dev/stdout'), 'two\\n'); print('three')"
    out = tmp_path / "out"
    with out.open("w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, cwd=ROOT)
    assert out.read_text() == "one\ntwo\nthree\n"


# --- full disks -----------------------------------------------------------------------------------


def limited(limit: int, code: str, *arguments: str) -> str:
    """What a process prints whose files may not grow beyond a limit."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return done.stdout


ON_A_FULL_DISK = """
import sys
from pathlib import Path
from skipstone.errors import OutputError
from skipstone.outputs import *
for attempt in (check_output, check_append, lambda path: write_whole(path, bytes(1 << 20))):
    try:
        attempt(Path(sys.argv[1]))
        print("accepted")
    except OutputError as error:
        print(error)
"""


def test_a_full_disk_is_found_out_before_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    lines = limited(1000, ON_A_FULL_DISK, str(path)).splitlines()
    assert len(lines) == 3
    assert all("cannot be written (File too large)" in line for line in lines)
    # Room for the test, not for the file.
    lines = limited(100_000, ON_A_FULL_DISK, str(path)).splitlines()
    assert lines[:2] == ["accepted", "accepted"]
    assert "cannot be written (File too large)" in lines[2]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# --- outputs that would replace each other --------------------------------------------------------


def test_two_options_must_not_name_one_file(tmp_path: Path) -> None:
    a, link = tmp_path / "a", tmp_path / "link"
    link.symlink_to(a)
    check_apart({"--junit": a, "--sarif": None, "-o": tmp_path / "b"})
    with pytest.raises(OutputError, match="--junit and --sarif are both"):
        check_apart({"--junit": a, "--sarif": link})


# --- every command that writes --------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a file of prompts and a trace."""
    folder = tmp_path_factory.mktemp("sources")
    write_checkpoint(folder / "model")
    (folder / "prompts.txt").write_text("a\nb\n")
    made_up.write(folder / "run.trace")
    return folder


Writer = Callable[[Path, Path], list[str]]


def _audit(option: str) -> Writer:
    return lambda sources, path: [
        *("audit", "--baseline", "", "--candidate", "skip=none", "--max-disagreement", "50%"),
        *("--prompts", str(sources / "prompts.txt"), "--model", str(sources / "model")),
        *("--gen-length", "4", option, str(path)),
    ]


WRITERS: dict[str, Writer] = {
    "trace": lambda s, path: ["trace", "a", "--model", str(s / "model"), "-o", str(path)],
    "parquet": lambda s, path: ["export", str(s / "run.trace"), "--to", "parquet", "-o", str(path)],
    "perfetto": lambda s, path: [
        *("export", str(s / "run.trace"), "--to", "perfetto", "-o", str(path))
    ],
    "report": lambda s, path: ["report", *[str(s / "run.trace")] * 2, "-o", str(path)],
    "compare": lambda s, path: [
        *("compare", "a", "--a", "", "--b", "skip=none", "--model", str(s / "model")),
        *("--report", str(path)),
    ],
    "audit log": _audit("-o"),
    "junit": _audit("--junit"),
    "sarif": _audit("--sarif"),
    "sweep": lambda s, path: [
        *("sweep", "--prompts", str(s / "prompts.txt"), "--model", str(s / "model")),
        *("--grid", "unmask=fixed", "--gen-length", "4", "-o", str(path)),
    ],
    "leaderboard": lambda s, path: [
        *("leaderboard", "--prompts", str(s / "prompts.txt"), "--model", str(s / "model")),
        *("--quick", "--gen-length", "4", "-o", str(path)),
    ],
    "bench": lambda s, path: ["bench", "--device", "cpu", "-o", str(path)],
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_command_tests_its_path_before_it_decodes(
    name: str,
    sources: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def never(*arguments: object, **settings: object) -> None:
        raise AssertionError("decoded before the path was tested")

    monkeypatch.setattr("skipstone.engine.engine.Engine.generate_batch", never)
    monkeypatch.setattr("skipstone.engine.engine.Engine.generate", never)
    monkeypatch.setattr("skipstone.bench.gate.gate", never)
    monkeypatch.setattr("skipstone.cli.report.measured_floor", never)
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file / "x", tmp_path / ("x" * 300)):
        assert run(WRITERS[name](sources, path)) == 2
        err = capsys.readouterr().err
        assert "internal error" not in err
        assert "cannot be" in err
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "mine"


def test_a_log_that_was_killed_at_its_first_line_is_begun_again(tmp_path: Path) -> None:
    """The head is there as a whole, or the file is not there."""
    from skipstone.audit.run import Log

    path = tmp_path / "log.jsonl"
    (tmp_path / ".log.jsonl.part").write_text('{"format": "skip')
    Log(path, {"baseline": {"a": "1"}, "candidate": {"a": "2"}})
    assert len(path.read_text().splitlines()) == 1
    Log(path, {"baseline": {"a": "1"}, "candidate": {"a": "2"}})
    with pytest.raises(SkipstoneError, match="another baseline"):
        Log(path, {"baseline": {"a": "3"}, "candidate": {"a": "2"}})


def test_a_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    path = tmp_path / "tables"
    with whole_folder(path) as part:
        (part / "deep").mkdir()
        (part / "deep" / "file").write_text("x")
        assert not path.exists()
    assert (path / "deep" / "file").read_text() == "x"
