"""A trace that has lost something: what is missing is named wherever somebody looks."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from skipstone.cli.main import run
from skipstone.diff.difference import diff
from skipstone.errors import TraceError
from skipstone.record import Tap, TensorKey, TraceWriter, open_trace
from skipstone.record.schema import Hole
from skipstone.record.verify import MOST, verify
from skipstone.tracing.diagnose import diagnose
from tests.fuzz.trace_mutations import content
from tests.helpers import synthetic_trace as made_up
from tests.record.test_store import damage, same


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A finished trace of six forwards."""
    made_up.write(tmp_path / "run.trace", forwards=6)
    return tmp_path / "run.trace"


@pytest.mark.parametrize(
    ("lost", "hole", "text"),
    [
        ([2], Hole(1, 3, 1), "forward 2 is missing"),
        ([1, 2, 3], Hole(0, 4, 3), "forwards 1 to 3 are missing"),
        ([0], Hole(-1, 1, 1), "forward 0 is missing"),
        ([5], Hole(4, -1, 1), "1 step is missing at the end, after forward 4"),
        ([4, 5], Hole(3, -1, 2), "2 steps are missing at the end, after forward 3"),
        ([0, 1, 2, 3, 4, 5], Hole(-1, -1, 6), "6 steps are missing at the end"),
    ],
)
def test_missing_steps_are_a_hole_with_a_name(
    path: Path, lost: list[int], hole: Hole, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lose(path, lost)
    with open_trace(path) as trace:
        (record,) = trace.records
        assert record.holes == (hole,)
        assert str(hole) == text
        assert [step.forward for step in record.steps] == [f for f in range(6) if f not in lost]
        assert all(same(step, made_up.step(step.forward)) for step in record.steps)
        key = TensorKey(lost[0], Tap.STATE, 2)
        with pytest.raises(TraceError, match=f"step at forward {lost[0]} of sample 0 is missing"):
            trace.tensor(0, key)
        others = [key for key in trace.keys(0) if key.forward not in lost]
        assert all(trace.tensor(0, key) is not None for key in others)
    assert run(["show", str(path)]) == 0
    assert f"hole        {text}" in capsys.readouterr().out
    assert run(["show", str(path), "--verify"]) == 1
    assert text in capsys.readouterr().out


def lose(path: Path, forwards: list[int]) -> None:
    for forward in forwards:
        damage(path, "DELETE FROM steps WHERE forward = ?", forward)


def test_a_diff_names_holes_and_never_calls_the_runs_identical(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(path, tmp_path / "other.trace")
    with open_trace(path) as a, open_trace(other) as b:
        assert diff(a, b).identical  # control
    lose(other, [2, 5])
    with open_trace(path) as a, open_trace(other) as b, open_trace(other) as c:
        for found, name in ((diff(a, b), "B"), (diff(b, a), "A")):
            assert not found.identical
            # What only one has because the other lost it is no decision.
            assert found.decision is None
            limits = [limit for limit in found.alignment.limits if limit.startswith(f"{name} la")]
            assert len(limits) == 2
            assert "forward 2 is missing" in limits[0]
        assert not diff(b, c).identical
    assert run(["diff", str(path), str(other), "--floor", "estimate"]) == 1
    assert "note: B lacks steps that were recorded: forward 2 is missing" in capsys.readouterr().out


def test_a_step_that_is_missing_where_runs_part_hides_no_difference_behind_it(
    path: Path, tmp_path: Path
) -> None:
    with TraceWriter(tmp_path / "other.trace") as other:
        other.begin([made_up.header()], "decisions")
        for forward in range(6):
            # Another sample's decisions from forward 4 on.
            other.step(0, made_up.step(forward, sample=int(forward >= 4)), {})
        other.end([made_up.outcome()])
    lose(other.path, [2])
    with open_trace(path) as a, open_trace(other.path) as b:
        first = diff(a, b).decision
        assert first is not None
        assert first.forward_a == 4


def test_what_runs_a_trace_again_refuses_one_with_a_hole(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = shutil.copytree(path, tmp_path / "whole.trace")
    lose(path, [2])
    for command in (
        ["diagnose", str(whole), str(path)],
        ["report", str(path), str(whole), "-o", str(tmp_path / "report.html")],
        ["step", str(path), "--at", "0.1"],
    ):
        assert run(command) == 2
        err = capsys.readouterr().err
        assert "cannot be run again, since forward 2 is missing; copy it again" in err
    refused = pytest.raises(TraceError, match="A cannot be run again, since forward 2 is missing")
    with open_trace(path) as a, open_trace(whole) as b, refused:
        diagnose(a, b)


def test_an_export_says_what_its_trace_lacks(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lose(path, [2])
    assert run(["export", str(path), "--to", "perfetto", "-o", str(tmp_path / "out.json")]) == 0
    assert "note: of sample 0, forward 2 is missing, here as in the" in capsys.readouterr().err


def test_in_a_batch_the_hole_is_that_of_its_sample(tmp_path: Path) -> None:
    path = tmp_path / "batch.trace"
    made_up.write(path, forwards=4, samples=3)
    damage(path, "DELETE FROM steps WHERE sample = 1 AND forward IN (0, 3)")
    with open_trace(path) as trace:
        holes = [trace.holes(sample) for sample in range(3)]
    assert holes == [(), (Hole(-1, 1, 1), Hole(2, -1, 1)), ()]


def test_a_step_is_missing_in_an_unfinished_trace_too(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "run.trace") as sink:
        sink.begin([made_up.header()], "decisions")
        for forward in range(4):
            sink.step(0, made_up.step(forward), {})
    with open_trace(sink.path) as trace:
        assert trace.records[0].holes == ()  # control: unfinished is not damaged
    lose(sink.path, [1, 3])
    with open_trace(sink.path) as trace:
        assert trace.records[0].holes == (Hole(0, 2, 1), Hole(2, -1, 1))


def test_missing_rows_of_the_index_and_missing_events_are_said(path: Path) -> None:
    damage(path, "DELETE FROM tensors WHERE id = 7")
    with open_trace(path) as trace:
        with pytest.raises(TraceError, match="1 rows of their index are missing"):
            trace.keys(0)
        keys = [key for forward in range(6) for key in made_up.tensors(forward)]
        read, refused = 0, list[str]()
        for key in keys:
            try:
                read += trace.tensor(0, key) is not None
            except TraceError as error:
                refused.append(str(error))
        assert (read, len(refused)) == (23, 1)
        assert "it is not in the index, in which 1 rows are missing" in refused[0]
    damage(path, "DELETE FROM events")
    with open_trace(path) as trace, pytest.raises(TraceError, match="row 1 is missing"):
        trace.events(0)


def test_verify_counts_what_is_whole_and_names_what_is_not(path: Path) -> None:
    with open_trace(path) as trace:
        found = verify(trace)
    assert (found.steps, found.tensors, found.events, found.experiments) == (6, 24, 1, 0)
    assert found.faults == ()
    damage(path, "UPDATE steps SET block = block + 1 WHERE forward = 2")
    shard = path / "shards" / "s0000-f000003.safetensors"
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    with open_trace(path) as trace:
        found = verify(trace)
    # The tensors of a damaged step cannot be placed, and say so by the fault of their step.
    assert (found.steps, found.tensors) == (5, 24 - 4 - 1)
    assert len(found.faults) == 2
    assert "the step at forward 2 of sample 0" in found.faults[0]
    assert "TensorKey(forward=3" in found.faults[1]


def test_verify_stops_where_nothing_is_right(tmp_path: Path) -> None:
    made_up.write(tmp_path / "run.trace", forwards=300, level="decisions")
    damage(tmp_path / "run.trace", "UPDATE steps SET block = block + 1")
    with open_trace(tmp_path / "run.trace") as trace:
        assert len(verify(trace).faults) == MOST


def test_an_unfinished_trace_whose_log_was_cut_is_an_earlier_one(tmp_path: Path) -> None:
    alive = TraceWriter(tmp_path / "alive.trace")
    alive.begin([made_up.header()], "decisions")
    for forward in range(8):
        alive.step(0, made_up.step(forward), {})
    killed = shutil.copytree(alive.path, tmp_path / "killed.trace")
    alive.close()
    with open_trace(killed) as trace:
        recorded = content(trace)
    log = (killed / "trace.sqlite-wal").read_bytes()
    counts = list[int]()
    for length in range(len(log), 0, -1024):
        (killed / "trace.sqlite-wal").write_bytes(log[:length])
        (killed / "trace.sqlite-shm").unlink(missing_ok=True)
        with open_trace(killed) as trace:
            steps = trace.records[0].steps
            assert trace.records[0].holes == ()
            assert all(same(step, made_up.step(f)) for f, step in enumerate(steps))
            assert content(trace).items() <= recorded.items()
            counts.append(len(steps))
    assert counts == sorted(counts, reverse=True)
    assert {0, 4, 8} <= set(counts)


def test_bits_of_a_log_give_no_other_steps(tmp_path: Path) -> None:
    alive = TraceWriter(tmp_path / "alive.trace")
    alive.begin([made_up.header()], "decisions")
    for forward in range(4):
        alive.step(0, made_up.step(forward), {})
    killed = shutil.copytree(alive.path, tmp_path / "killed.trace")
    alive.close()
    log = (killed / "trace.sqlite-wal").read_bytes()
    for at in range(0, len(log), 97):
        flipped = log[:at] + bytes([log[at] ^ 4]) + log[at + 1 :]
        (killed / "trace.sqlite-wal").write_bytes(flipped)
        (killed / "trace.sqlite-shm").unlink(missing_ok=True)
        try:
            with open_trace(killed) as trace:
                steps = trace.records[0].steps
        except TraceError:
            continue
        assert all(same(step, made_up.step(f)) for f, step in enumerate(steps))


def test_a_reader_that_came_before_the_first_step_sees_those_that_follow(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "run.trace") as sink:
        sink.begin([made_up.header()], "full")
        with open_trace(sink.path) as early:
            assert early.forwards(0) == []
            for forward in range(3):
                sink.step(0, made_up.step(forward), made_up.tensors(forward))
                assert early.forwards(0) == list(range(forward + 1))
                assert {key.forward for key in early.keys(0)} == set(range(forward + 1))
                assert early.holes(0) == ()
            assert len(early.record(0).steps) == 3


def test_a_writer_takes_the_steps_of_a_sample_in_order_and_once(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "run.trace") as sink:
        sink.begin([made_up.header()], "decisions")
        sink.step(0, made_up.step(1), {})
        for forward in (1, 0):
            with pytest.raises(TraceError, match=f"forward {forward} of sample 0 comes after"):
                sink.step(0, made_up.step(forward), {})
        sink.step(0, made_up.step(2), {})
    with open_trace(sink.path) as trace:
        assert trace.forwards(0) == [1, 2]
        assert trace.holes(0) == ()


def test_reading_a_finished_trace_makes_no_file_beside_it(path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in [path, *path.rglob("*")]}
    with open_trace(path) as trace:
        verify(trace)
        assert {file: file.stat().st_mtime_ns for file in [path, *path.rglob("*")]} == before
    assert {file: file.stat().st_mtime_ns for file in [path, *path.rglob("*")]} == before


def test_a_trigger_put_in_while_the_trace_is_open_runs_for_no_experiment(path: Path) -> None:
    with open_trace(path) as trace:
        damage(path, "CREATE TRIGGER tr AFTER INSERT ON experiments BEGIN DELETE FROM steps; END")
        with pytest.raises(TraceError, match="has a trigger 'tr' that no trace has"):
            trace.add_experiment("key", "{}", "{}")
    with closing(sqlite3.connect(path / "trace.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM steps").fetchone() == (6,)
        assert database.execute("SELECT count(*) FROM experiments").fetchone() == (0,)
        # Control: it would have.
        database.execute("INSERT INTO experiments (key) VALUES ('key')")
        assert database.execute("SELECT count(*) FROM steps").fetchone() == (0,)
