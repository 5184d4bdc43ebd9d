"""Traces on disk: what was written is read back, whatever happens to the writer or the files."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from skipstone.errors import OutputError, TraceError
from skipstone.record import (
    Candidates,
    Judgements,
    MemoryTrace,
    RunRecord,
    Source,
    StepRecord,
    Tap,
    TensorKey,
    TensorRows,
    Trace,
    TraceWriter,
    open_trace,
    packing,
    shards,
)
from skipstone.record.sketch import Sketch, distance, pack, sketch, sketch_rows, unpack
from tests.conftest import ROOT
from tests.helpers import synthetic_trace as made_up

GOLDEN = Path(__file__).parent / "traces"


def same(a: object, b: object) -> bool:
    """Whether two values are equal, arrays bit for bit and with their dtypes."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, (StepRecord, Candidates, Judgements, RunRecord)) and type(a) is type(b):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def tensors_are_right(trace: Trace, sample: int, forward: int) -> bool:
    """Whether every tensor of a forward is what the formula says."""
    for key, (positions, values) in made_up.tensors(forward, sample).items():
        found = trace.tensor(sample, key)
        if found is None or not same(found.positions, positions) or not same(found.values, values):
            return False
    return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.trace"


# --- what is written is read


def test_everything_written_is_read_back(path: Path) -> None:
    made_up.write(path, forwards=8, samples=2)
    with open_trace(path) as trace:
        assert trace.closed
        assert trace.manifest.level == "full"
        for sample, record in enumerate(trace.records):
            steps = tuple(made_up.step(f, sample) for f in range(8))
            events = (made_up.event(),) if sample == 0 else ()
            truth = RunRecord(made_up.header(sample, 2), steps, made_up.outcome(sample), events)
            assert same(record, truth)
            # Control: another step in its place would be seen.
            assert not same(record, dataclasses.replace(truth, steps=(*steps[1:], steps[0])))
            assert all(tensors_are_right(trace, sample, f) for f in range(8))
        assert not tensors_are_right(SwappedSamples(trace), 0, 3)


class SwappedSamples:
    """A control: the trace with its two samples exchanged."""

    def __init__(self, trace: Trace) -> None:
        self.records = trace.records[::-1]
        self._trace = trace

    def keys(self, sample: int) -> Sequence[TensorKey]:
        return self._trace.keys(1 - sample)

    def tensor(self, sample: int, key: TensorKey) -> TensorRows | None:
        return self._trace.tensor(1 - sample, key)


def test_a_stored_trace_answers_as_one_in_memory(path: Path) -> None:
    memory = MemoryTrace()
    with TraceWriter(path) as disk:
        for sink in (memory, disk):
            sink.begin([made_up.header()], "full")
            for forward in range(6):
                sink.step(0, made_up.step(forward), made_up.tensors(forward))
            sink.end([made_up.outcome()])
    with open_trace(path) as stored:
        assert stored.keys(0) == memory.keys(0)
        for key in memory.keys(0):
            a, b = memory.tensor(0, key), stored.tensor(0, key)
            assert a is not None
            assert b is not None
            assert all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
        assert stored.tensor(0, TensorKey(0, Tap.VALUE, 2)) is None
        assert {Source.COMPUTED, Source.CACHED} <= set(
            np.concatenate([b.source for k in memory.keys(0) if (b := stored.tensor(0, k))])
        )


def test_the_format_s_arrays_are_the_fields_of_the_records() -> None:
    for kind, table in (
        (Candidates, packing.CANDIDATE_ARRAYS),
        (Judgements, packing.JUDGEMENT_ARRAYS),
    ):
        assert list(table) == [field.name for field in dataclasses.fields(kind)]
    arrays = [f.name for f in dataclasses.fields(StepRecord) if f.type == "np.ndarray"]
    assert list(packing.STEP_ARRAYS) == arrays


def test_equal_positions_are_stored_once(path: Path) -> None:
    made_up.write(path, forwards=1)
    (shard,) = (path / "shards").iterdir()
    # The states are in reverse order, so that only two of the four taps share their positions.
    step = made_up.step(0)
    with TraceWriter(path.with_name("shared.trace")) as shared:
        shared.begin([made_up.header()], "full")
        values = np.ones((step.rows.size, 4), np.float32)
        keys = [TensorKey(0, Tap.STATE, layer) for layer in range(5)]
        shared.step(0, step, dict.fromkeys(keys, (step.rows, values)))
    (other,) = (shared.path / "shards").iterdir()
    assert sum(name.endswith(".positions") for name in load_file(shard)) == 4
    assert sum(name.endswith(".positions") for name in load_file(other)) == 1


def test_experiments_are_kept_in_a_finished_and_in_an_unfinished_trace(path: Path) -> None:
    made_up.write(path)
    unfinished = TraceWriter(path.with_name("unfinished.trace"))
    unfinished.begin([made_up.header()], "decisions")
    unfinished.step(0, made_up.step(0), {})
    for folder in (path, unfinished.path):
        with open_trace(folder) as trace:
            assert trace.experiments == []
            next(trace.steps(0))  # a read that is not over must not stand in the way
            trace.add_experiment("fresh-kv", '{"layer": 3}', '{"restored": false}')
            trace.add_experiment("fresh-kv", '{"layer": 3}', '{"restored": true}')
            (kept,) = trace.experiments
        with open_trace(folder) as again:
            assert again.experiments == [kept]
        assert (kept.key, kept.outcome) == ("fresh-kv", '{"restored": true}')
    unfinished.step(0, made_up.step(1), {})
    unfinished.close()


def test_a_trace_can_be_read_while_it_is_written(path: Path) -> None:
    with TraceWriter(path) as sink:
        sink.begin([made_up.header()], "full")
        sink.step(0, made_up.step(0), made_up.tensors(0))
        with open_trace(path) as live:
            assert not live.closed
            assert len(live.records[0].steps) == 1
            sink.step(0, made_up.step(1), {})
            sink.end([made_up.outcome()])  # does not wait for the reader
        with open_trace(path) as trace:
            assert trace.closed
            assert len(trace.records[0].steps) == 2


def test_a_run_that_stops_early_leaves_an_unfinished_trace(path: Path) -> None:
    def interrupted() -> None:
        with TraceWriter(path) as sink:
            sink.begin([made_up.header()], "decisions")
            sink.step(0, made_up.step(0), {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with open_trace(path) as trace:
        assert not trace.closed
        assert trace.records[0].outcome is None
        assert same(trace.records[0].steps, (made_up.step(0),))


def test_a_run_that_never_begins_leaves_nothing(path: Path) -> None:
    with pytest.raises(ValueError, match="no model"), TraceWriter(path):
        raise ValueError("no model")
    assert not path.exists()


def test_no_step_costs_much(path: Path) -> None:
    # Generous: 0.08 ms was measured; a commit that waits for the disk takes milliseconds. A busy
    # machine holds up some steps; a writer that waits is held up in each, so the median tells.
    import time

    seconds = list[float]()
    with TraceWriter(path) as sink:
        sink.begin([made_up.header()], "decisions")
        for step in [made_up.step(f) for f in range(300)]:
            start = time.perf_counter()
            sink.step(0, step, {})
            seconds.append(time.perf_counter() - start)
    assert median(seconds) < 1e-3


# --- the golden trace


@pytest.mark.parametrize("schema", [1, 2])
def test_a_trace_of_every_schema_is_read_for_ever(schema: int) -> None:
    golden = GOLDEN / f"schema-{schema}.trace"
    with open_trace(golden) as trace:
        assert (trace.manifest.schema, trace.closed) == (schema, True)
        assert trace.has_checksums == (schema > 1)
        steps = tuple(made_up.step(f) for f in range(6))
        truth = RunRecord(made_up.header(), steps, made_up.outcome(), (made_up.event(),))
        assert same(trace.records[0], truth)
        assert all(tensors_are_right(trace, 0, f) for f in range(6))
        assert [e.key for e in trace.experiments] == ["fresh-kv"]
    size = sum(file.stat().st_size for file in golden.rglob("*") if file.is_file())
    assert size < 100_000


def test_an_older_trace_is_never_written_to(tmp_path: Path) -> None:
    old = shutil.copytree(GOLDEN / "schema-1.trace", tmp_path / "old.trace")
    before = {file: file.read_bytes() for file in old.rglob("*") if file.is_file()}
    with open_trace(old) as trace, pytest.raises(TraceError, match="of schema 1, whose traces"):
        trace.add_experiment("key", "{}", "{}")
    assert before == {file: file.read_bytes() for file in old.rglob("*") if file.is_file()}


# --- a process that dies, a disk that is full


def child(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.synthetic_trace", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_no_step_is_lost_or_wrong_when_the_writer_is_killed(tmp_path: Path) -> None:
    last_said: dict[str, int] = json.loads(child("kill", str(tmp_path), "50"))
    assert len(last_said) == 50
    left_behind = 0
    for name, last in last_said.items():
        with open_trace(tmp_path / name) as trace:
            assert not trace.closed
            steps = trace.records[0].steps
            # The step after the last one may have been written, but not yet said so.
            assert last + 1 <= len(steps) <= last + 2
            assert all(same(step, made_up.step(f)) for f, step in enumerate(steps))
            odd = range(1, len(steps), 2)
            assert trace.keys(0) == sorted(k for f in odd for k in made_up.tensors(f))
            assert all(tensors_are_right(trace, 0, f) for f in odd)
        shards = {file.name for file in (tmp_path / name / "shards").iterdir()}
        left_behind += len(shards) > len(odd)
    # Control: the writers were killed at work, most after many steps, some within a shard.
    assert sum(last > 5 for last in last_said.values()) > 20
    assert left_behind > 0


def test_a_full_disk_stops_the_run_and_keeps_the_steps(path: Path) -> None:
    written, message = json.loads(child("fill", str(path), "500000"))
    assert "cannot be written" in message
    assert "run again with a new path" in message
    with open_trace(path) as trace:
        assert not trace.closed
        steps = trace.records[0].steps
        assert 10 < written == len(steps)
        assert all(same(step, made_up.step(f)) for f, step in enumerate(steps))


def test_a_shard_that_does_not_fit_stops_the_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = TraceWriter(path)
    sink.begin([made_up.header()], "full")
    sink.step(0, made_up.step(0), made_up.tensors(0))

    def full(arrays: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(TraceError, match="No space left on device"):
        sink.step(0, made_up.step(1), made_up.tensors(1))
    with pytest.raises(TraceError, match="takes no more"):
        sink.step(0, made_up.step(2), {})
    with open_trace(path) as trace:
        assert same(trace.records[0].steps, (made_up.step(0),))
        assert tensors_are_right(trace, 0, 0)
    assert [file.name for file in (path / "shards").iterdir()] == ["s0000-f000000.safetensors"]


# --- where a trace may be written


def test_nothing_is_ever_overwritten(path: Path) -> None:
    made_up.write(path)
    before = {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}
    with pytest.raises(OutputError, match=r"exists already.*choose another path"):
        TraceWriter(path)
    assert before == {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}
    file = path.with_name("file.trace")
    file.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        TraceWriter(file)
    assert file.read_text() == "mine"


def test_two_writers_cannot_share_a_path(path: Path) -> None:
    with TraceWriter(path) as first, TraceWriter(path) as second:
        first.begin([made_up.header()], "decisions")
        with pytest.raises(OutputError, match="exists already"):
            TraceWriter(path)
        with pytest.raises(OutputError, match="exists already"):
            second.begin([made_up.header()], "decisions")
        with pytest.raises(TraceError, match="its own TraceWriter"):
            first.begin([made_up.header()], "decisions")
        first.step(0, made_up.step(0), {})


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written \(No such file or directory\)"):
        TraceWriter(tmp_path / "missing" / "run.trace")
    with as_nobody() as folder, pytest.raises(OutputError, match="Permission denied"):
        TraceWriter(folder / "run.trace")


@contextmanager
def as_nobody() -> Generator[Path, None, None]:
    """A folder that this process cannot write to for now, even if it runs as root."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "read-only")
        folder.mkdir()
        Path(name).chmod(0o755)
        folder.chmod(0o555)
        if root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)


# --- traces that cannot be written to


def crashed(path: Path) -> None:
    """What a killed writer leaves: a write-ahead log with every step."""
    sink = TraceWriter(path.with_name("alive.trace"))
    sink.begin([made_up.header()], "full")
    for forward in range(3):
        sink.step(0, made_up.step(forward), made_up.tensors(forward))
    shutil.copytree(sink.path, path)
    (path / "trace.sqlite-shm").unlink()
    assert (path / "trace.sqlite-wal").stat().st_size > 0
    sink.close()


def finished(path: Path) -> None:
    made_up.write(path, forwards=3)
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json",
        "shards",
        "trace.sqlite",
    ]


def without_log(path: Path) -> None:
    """Only the database of an unfinished trace, as somebody might copy it."""
    made_up.write(path, forwards=3)
    with closing(sqlite3.connect(path / "trace.sqlite")) as database:
        database.execute("UPDATE samples SET outcome = NULL, steps = NULL, outcome_checksum = NULL")
        database.commit()
        database.execute("PRAGMA journal_mode = WAL")
    assert not (path / "trace.sqlite-wal").exists()


@pytest.mark.parametrize("make", [crashed, finished, without_log])
def test_a_trace_on_read_only_media_opens(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name, "run.trace")
        shutil.copytree(path, copy)
        everything = [Path(name), copy, *copy.rglob("*")]
        for file in everything:
            file.chmod(0o555 if file.is_dir() else 0o444)
        try:
            with as_nobody(), open_trace(copy) as trace:
                assert trace.closed == (make is finished)
                assert len(trace.records[0].steps) == 3
                assert all(tensors_are_right(trace, 0, f) for f in range(3))
                with pytest.raises(TraceError, match="copy the trace to where you can write"):
                    trace.add_experiment("key", "{}", "{}")
            assert [file for file in copy.rglob("*") if file not in everything] == []
        finally:
            for file in everything:
                file.chmod(0o755)


# --- what is no trace, or no longer one


def test_what_is_no_trace_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no trace")
    (tmp_path / "folder").mkdir()
    for name, what in (
        ("missing", "does not exist"),
        ("file", "has no manifest.json"),
        ("folder", "has no manifest.json"),
    ):
        with pytest.raises(TraceError, match=f"is no trace: it {what}; give the folder"):
            open_trace(tmp_path / name)


def change_manifest(path: Path, **changes: object) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_newer_schema_is_refused_with_both_versions(path: Path) -> None:
    made_up.write(path)
    change_manifest(path, schema=3, skipstone="9.9.9", hologram=True)
    with pytest.raises(
        TraceError, match=r"schema 3 \(written by skipstone 9.9.9\).*reads up to 2; upgrade"
    ):
        open_trace(path)


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "{}", "[" * 100_000, '{"format": "skipstone-trace", "schema": "1"}', "\udcff"],
)
def test_a_broken_manifest_is_named(path: Path, manifest: str) -> None:
    made_up.write(path)
    (path / "manifest.json").write_bytes(manifest.encode(errors="surrogateescape"))
    with pytest.raises(TraceError, match=r"manifest.json cannot be read"):
        open_trace(path)


def test_the_manifest_of_something_else_is_refused(path: Path) -> None:
    made_up.write(path)
    change_manifest(path, format="web-app")
    with pytest.raises(TraceError, match="says 'web-app', must say 'skipstone-trace'"):
        open_trace(path)


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100, None])
def test_a_corrupt_database_is_named(path: Path, content: bytes | None) -> None:
    made_up.write(path)
    (path / "trace.sqlite").unlink()
    if content is not None:
        (path / "trace.sqlite").write_bytes(content)
    with pytest.raises(TraceError, match=r"trace\.sqlite"):
        open_trace(path)


def test_a_database_with_a_torn_page_never_gives_wrong_steps(path: Path) -> None:
    made_up.write(path, forwards=40, level="decisions")
    whole = (path / "trace.sqlite").read_bytes()
    refused = 0
    for page in range(0, len(whole), 4096):
        torn = whole[:page] + b"\xa5" * 4096 + whole[page + 4096 :]
        (path / "trace.sqlite").write_bytes(torn)
        try:
            with open_trace(path) as trace:
                steps = tuple(made_up.step(f) for f in range(40))
                assert same(trace.records[0].steps, steps)
                assert trace.experiments == []
                assert trace.keys(0) == []
        except TraceError:
            refused += 1
    assert refused > len(whole) / 4096 / 2


def damage(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path / "trace.sqlite")) as database:
        database.execute(sql, values)
        database.commit()


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE samples SET header = '{}'", "its samples"),
        (
            'UPDATE samples SET header = replace(header, \'"width": 32\', \'"width": "x"\')',
            "samples",
        ),
        ("UPDATE samples SET outcome = '[]'", "its samples"),
        ("UPDATE samples SET outcome = NULL", "its samples"),
        ("UPDATE samples SET steps = 2", "its samples"),
        (
            "INSERT INTO samples SELECT 1, header, header_checksum, NULL, NULL, NULL FROM samples",
            "sa",
        ),
        ("UPDATE steps SET arrays = NULL WHERE forward = 2", "the steps of sample 0"),
        ("UPDATE steps SET arrays = x'00' WHERE forward = 2", "forward 2 has no arrays"),
        ("UPDATE steps SET arrays = zeroblob(2000) WHERE forward = 2", "the step at forward 2"),
        ("UPDATE steps SET checksum = x'00' WHERE forward = 2", "the step at forward 2"),
        ("UPDATE steps SET block = 'x' WHERE forward = 2", "the step at forward 2"),
        ("UPDATE steps SET seconds = 'x' WHERE forward = 2", "the step at forward 2"),
        ("UPDATE steps SET refresh = 1 - refresh WHERE forward = 2", "the step at forward 2"),
        ("UPDATE tensors SET shard = '../trace.sqlite'", "the tensors of sample 0"),
        ("UPDATE tensors SET tap = 'smell' WHERE tap = 'key'", "the tensors of sample 0"),
        ("UPDATE tensors SET rows = rows + 1", "the tensors of sample 0"),
        ("UPDATE tensors SET positions = 'nothing'", "the tensors of sample 0"),
        ("DELETE FROM tensors WHERE id = 5", "1 rows of their index are missing"),
        ("UPDATE events SET event = '{\"kind\": 3}'", "the events"),
        ("DELETE FROM events", "the events of sample 0"),
        ("DROP TABLE experiments", "has no table 'experiments'"),
    ],
)
def test_damaged_rows_are_named(path: Path, sql: str, what: str) -> None:
    made_up.write(path, forwards=3)
    read_all(path)  # control: it was whole before
    damage(path, sql)
    with pytest.raises(TraceError, match=what):
        read_all(path)


def read_all(path: Path) -> None:
    with open_trace(path) as trace:
        for sample in range(len(trace.records)):
            assert trace.records[sample].steps
            for key in trace.keys(sample):
                assert trace.tensor(sample, key) is not None
        assert trace.experiments == []


def test_steps_with_arrays_of_a_wrong_kind_are_refused() -> None:
    def unpack(blob: bytes) -> StepRecord:
        return packing.unpack_step(0, 0, 0, 0, 1, 3, 11, 0, 0.0, "engine", blob)

    blob = packing.pack_arrays(made_up.step(0))
    assert same(unpack(blob), made_up.step(0))
    for old, new in ((b'"F64"', b'"I64"'), (b'"candidates.age"', b'"candidates.agE"')):
        with pytest.raises((ValueError, KeyError), match=r"similarity is int64|candidates.age"):
            unpack(blob.replace(old, new))
    short = dataclasses.replace(made_up.step(0).candidates, age=made_up.step(0).candidates.age[:-1])
    uneven = packing.pack_arrays(dataclasses.replace(made_up.step(0), candidates=short))
    with pytest.raises(ValueError, match="different lengths"):
        unpack(uneven)


@pytest.mark.parametrize("size", [None, 100])
def test_a_bad_shard_is_named_and_the_others_are_read(path: Path, size: int | None) -> None:
    made_up.write(path, forwards=5)
    shard = path / "shards" / "s0000-f000004.safetensors"
    whole = shard.stat().st_size
    if size is None:
        shard.unlink()
    else:
        os.truncate(shard, size)
    found = "is missing" if size is None else "has 100 bytes"
    with open_trace(path) as trace:
        with pytest.raises(TraceError) as raised:
            trace.tensor(0, TensorKey(4, Tap.STATE, 2))
        assert f"{shard} {found}, must have {whole} bytes" in str(raised.value)
        assert "forward 4 (block 1, step 0)" in str(raised.value)
        assert all(tensors_are_right(trace, 0, f) for f in range(4))
        assert len(trace.records[0].steps) == 5


# --- sketches


def pairs(width: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows x and y, and ``||x - y|| / ||x||``."""
    rng = np.random.default_rng(width)
    x = rng.standard_normal((400, width)).astype(np.float32)
    y = x + share * rng.standard_normal((400, width)).astype(np.float32)
    return x, y, np.linalg.norm(x - y, axis=1) / np.linalg.norm(x, axis=1)


@pytest.mark.parametrize("share", [1.0, 0.01, 1e-4])
@pytest.mark.parametrize("width", [32, 999, 4096])
def test_sketches_estimate_how_far_rows_are_apart(width: int, share: float) -> None:
    x, y, truth = pairs(width, share)
    off = np.abs(distance(sketch(x), sketch(y)) / truth - 1)
    assert np.median(off) < 0.08
    assert np.quantile(off, 0.95) < 0.21
    # Control: other pairs of rows are not estimated well.
    assert np.median(np.abs(distance(sketch(x), sketch(y[::-1])) / truth - 1)) > 0.3


def test_equal_bits_are_at_distance_zero_and_others_are_not() -> None:
    import ml_dtypes

    x = pairs(64, 0)[0].astype(ml_dtypes.bfloat16)
    for dtype in (ml_dtypes.bfloat16, np.float16, np.float32, np.float64):
        a, b = x.astype(dtype), x.astype(dtype)
        assert np.all(distance(sketch(a), sketch(b)) == 0)
        b.view(np.uint8)[np.arange(400), np.arange(400) % (64 * a.itemsize)] ^= 1
        assert np.all(sketch(a).hash != sketch(b).hash)
    zero = np.zeros((1, 8), np.float32)
    assert distance(sketch(zero), sketch(zero)) == 0
    assert distance(sketch(zero), sketch(zero + 1)) == np.inf


def test_flipped_signs_do_not_cancel_in_the_hash() -> None:
    x = np.ones((1, 64), np.float32)
    flipped = np.repeat(x, 2016, 0)
    for row, pair in zip(flipped, zip(*np.triu_indices(64, 1), strict=True), strict=True):
        row[list(pair)] *= -1
    assert len({*sketch(flipped).hash.tolist(), int(sketch(x).hash[0])}) == 2017


def test_states_that_are_not_finite_are_sketched_without_a_warning() -> None:
    x = np.array([[np.inf, 1], [np.nan, 1], [1e300, 1], [1, 1]])
    y = x.copy()
    y[:, 1] = 2
    assert np.all(distance(sketch(x), sketch(x)) == 0)
    assert np.isnan(distance(sketch(x), sketch(y))[:3]).all()
    assert distance(sketch(x), sketch(y))[3] > 0


def test_all_layers_at_once_and_odd_widths_give_the_same_sketches() -> None:
    import ml_dtypes

    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 7, 33)).astype(ml_dtypes.bfloat16)
    at_once = sketch(x)
    for layer in range(5):
        alone = sketch(x[layer, ::-1])
        assert same(at_once.hash[layer, ::-1].copy(), alone.hash)
        assert np.allclose(at_once.projection[layer, ::-1], alone.projection, rtol=1e-5, atol=1e-5)
    assert sketch(x[:, :0]).hash.shape == (5, 0)


def test_sketches_survive_packing_and_the_disk(path: Path) -> None:
    x = pairs(64, 0)[0]
    packed = sketch_rows(x)
    assert packed.shape == (400, 67)
    assert packed.dtype == np.float32
    # Some of these hashes look like signalling NaNs, whose bits arithmetic would change.
    hashes = np.append(np.uint64(0x7FA000017F800001), sketch(x).hash[1:])
    odd = Sketch(sketch(x).projection, sketch(x).norm, hashes)
    with TraceWriter(path) as sink:
        sink.begin([made_up.header()], "sketches")
        positions = np.arange(16, dtype=np.int32)
        key = TensorKey(0, Tap.SKETCH, 1)
        sink.step(0, made_up.step(0), {key: (positions, pack(odd)[:16])})
    with open_trace(path) as trace:
        found = trace.tensor(0, key)
        assert found is not None
        back = unpack(found.values)
    assert same(back.hash, hashes[:16])
    assert same(np.ascontiguousarray(back.projection), odd.projection[:16])
    with pytest.raises(ValueError, match="packed sketches are float32"):
        unpack(x)


def test_the_directions_and_hashes_never_change() -> None:
    # Traces made years apart must agree: these numbers are part of schema 1.
    x = np.arange(9, dtype=np.float32)[None] - 3
    assert sketch(x).hash.tolist() == [2572676060680290304]
    assert (sketch(x).projection[0, :4] * 8).tolist() == [1, 1, -5, -11]
