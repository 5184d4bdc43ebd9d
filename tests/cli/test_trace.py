"""The commands trace, show and export, and what the command line loads to run them."""

from __future__ import annotations

import json
import os
import re
import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq
import pytest

from skipstone import load
from skipstone.cli.main import COMMANDS, run, skipstone
from skipstone.cli.numbers import size, spans
from skipstone.cli.trace import parse_window
from skipstone.errors import CheckpointError, ConfigError
from skipstone.models.load import Model
from skipstone.record import Tap, TensorKey, TraceWriter, export, open_trace
from skipstone.record.checksum import Checksums
from skipstone.record.manifest import read_manifest
from skipstone.testing.tiny import tiny_model
from tests.conftest import ROOT
from tests.helpers import synthetic_trace as made_up

FAST = ["--gen-length", "16", "--block-length", "8"]
SKIP = ["--skip", "cosine:skip_layer_k=3,skip_threshold=0.5,skip_outlier=-1"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def strict(text: str) -> dict[str, object]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.trace"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line decodes with a tiny random model."""
    model = tiny_model(1)

    def loaded(*arguments: object, **settings: object) -> Model:
        return model

    monkeypatch.setattr("skipstone.models.load.load", loaded)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which no temporary path is folded."""
    monkeypatch.setenv("COLUMNS", "300")


# --- trace


def test_trace_prints_what_generate_prints_and_records_it(
    capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    question = ["What is the capital of Turkey?", *FAST]
    _, plain, _ = call(capsys, "generate", *question)
    code, traced, err = call(capsys, "trace", *question, "-o", path)
    assert (code, traced) == (0, plain)
    assert f"[trace: {path}, " in err
    with open_trace(path) as trace:
        assert trace.closed
        (record,) = trace.records
        assert record.outcome is not None
        assert record.outcome.text == plain.rstrip("\n")
        assert record.header.prompt_ids == tuple(load("pebble").text.encode(question[0]))
        assert len(record.steps) == record.outcome.num_forwards


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("arguments", "taps"),
    [
        ([], set()),
        (["--level", "decisions"], set()),
        (["--level", "sketches"], {Tap.SKETCH}),
        (["--level", "full"], {Tap.STATE, Tap.KEY, Tap.VALUE, Tap.LOGITS}),
        (["--window", "1.1"], {Tap.STATE, Tap.KEY, Tap.VALUE, Tap.LOGITS}),
    ],
)
def test_each_level_keeps_its_tensors(
    capsys: pytest.CaptureFixture[str], path: Path, arguments: list[str], taps: set[Tap]
) -> None:
    code, _, err = call(
        capsys, "trace", "w1 w2", "-o", path, "--unmask", "fixed", *FAST, *SKIP, *arguments
    )
    assert code == 0, err
    with open_trace(path) as trace:
        keys = trace.keys(0)
        assert {key.tap for key in keys} == taps
        recorded = {key.forward for key in keys}
        steps = trace.records[0].steps
        wanted = {s.forward for s in steps if taps and ("--window" not in arguments or at(s, 1, 1))}
        assert recorded == wanted
        assert all(trace.tensor(0, key) is not None for key in keys)


def test_edits_are_shown_and_compared(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    question, paths = (
        "I have a question. What is Carl Sagan known for?",
        [path, path.with_name("b")],
    )
    lengths = ["--gen-length", "32", "--block-length", "16"]
    for edit, to in zip(("0.9", "0.5"), paths, strict=True):
        unmask = f"editing:threshold=0.3,edit={edit}"
        call(capsys, "trace", question, "-o", to, "--unmask", unmask, *lengths)
    record = open_trace(paths[1]).records[0]
    step = next(step for step in record.steps if step.edited)
    _, shown, _ = call(capsys, "show", paths[1])
    assert re.search(r"committed +edited +masks left", shown)
    _, shown, _ = call(capsys, "show", paths[1], "--steps")
    assert len(re.findall(r"committed +edited +masks left", shown)) == 2
    _, shown, _ = call(capsys, "show", paths[1], "--step", f"{step.block}.{step.step}")
    assert re.search(rf"edited +{step.edited[0]} from '.+' to '.+'", shown)
    _, told, _ = call(capsys, "show", paths[1], "--steps", "--json")
    value = json.loads(told)
    assert sum(block["edited"] for block in value["blocks"]) == sum(
        len(s.edited) for s in record.steps
    )
    assert [s["edited"] for s in value["steps"]] == [list(s.edited) for s in record.steps]
    _, compared, _ = call(capsys, "diff", *paths)
    assert re.search(r"A commits nothing, B edits [\d, ]+\n +A +does not edit to '", compared)
    assert re.search(r"\n +B +edits to '", compared)


def at(step: made_up.StepRecord, block: int, number: int) -> bool:
    return (step.block, step.step) == (block, number)


@pytest.mark.usefixtures("tiny")
def test_a_window_that_no_step_lies_in_is_said(
    capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    code, _, err = call(capsys, "trace", "w1", "-o", path, *FAST, "--window", "7.0-7.9")
    assert code == 0
    assert "no step lies in the window 7.0-7.9" in err
    other = path.with_name("other.trace")
    _, _, err = call(capsys, "trace", "w1", "-o", other, *FAST, "--window", "0.0-7.9")
    assert "no step lies" not in err


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("more", [(), ("--batch-size", "1")], ids=["together", "in turn"])
def test_a_batch_is_one_trace_of_several_samples(
    capsys: pytest.CaptureFixture[str], path: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("w1 w2 w3\nw4\n")
    file = ("--batch-file", prompts, *more)
    code, out, _ = call(capsys, "trace", *file, "-o", path, "--json", "--level", "full", *FAST)
    assert code == 0
    answers = [strict(line) for line in out.splitlines()]
    assert [answer["trace"] for answer in answers] == [str(path)] * 2
    for sample, answer in enumerate(answers):
        code, out, _ = call(capsys, "show", path, "--sample", str(sample), "--json")
        shown = strict(out)
        header, outcome = shown["header"], shown["outcome"]
        assert isinstance(header, dict)
        assert isinstance(outcome, dict)
        assert (header["sample"], header["batch"]) == (sample, 2)
        assert outcome["tokens"] == answer["tokens"]
    assert (
        "prompt      1 token, 16 new, sample 1 of 2"
        in call(capsys, "show", path, "--sample", "1")[1]
    )
    code, _, err = call(capsys, "show", path, "--sample", "2")
    assert code == 2
    assert "--sample is 2, must be from 0 to 1" in err


def test_an_existing_path_is_refused_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*arguments: object, **settings: object) -> Model:
        raise CheckpointError("the model is loaded")

    monkeypatch.setattr("skipstone.models.load.load", loaded)
    code, _, err = call(capsys, "trace", "w1", "-o", path)
    assert (code, err) == (2, "skipstone: error: the model is loaded\n")
    assert not path.exists()  # nothing is left behind, so that the next try may have the path
    path.mkdir()
    code, _, err = call(capsys, "trace", "w1", "-o", path)
    assert code == 2
    assert "exists already" in err


def test_windows_are_read_or_refused() -> None:
    assert parse_window("1.2") == ((1, 2), (1, 2))
    assert parse_window("0.7-3.0") == ((0, 7), (3, 0))
    assert parse_window("b0.s7-b3.s0") == ((0, 7), (3, 0))
    for text in ("", "1", "1.2-", "1.2-3", "-1.2", "1.2-1.3-1.4", "1.٢", "1.2\n"):
        with pytest.raises(ConfigError, match=r"must be BLOCK\.STEP"):
            parse_window(text)
    with pytest.raises(ConfigError, match="ends before it begins"):
        parse_window("1.2-1.1")


@pytest.mark.usefixtures("tiny")
def test_a_window_beside_another_level_is_said_to_have_no_effect(
    capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    argv = ("trace", "w1", "-o", path, *FAST, "--level", "full", "--window", "0.0")
    code, _, err = call(capsys, *argv)
    assert code == 0
    assert "note: --window 0.0 has no effect at --level full" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--level", "window"], "--level window needs --window"),
        (["--level", "full", "--window", "x"], "--window is 'x', must be BLOCK.STEP"),
        (["--window", "x"], "--window is 'x', must be BLOCK.STEP"),
        (["--level", "everything"], "level is 'everything'"),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_levels_that_make_no_sense_are_refused(
    capsys: pytest.CaptureFixture[str], path: Path, arguments: list[str], message: str
) -> None:
    code, _, err = call(capsys, "trace", "w1", "-o", path, *FAST, *arguments)
    assert code == 2
    assert message in err
    assert not path.exists()


# --- show


@pytest.mark.usefixtures("wide")
def test_show_prints_the_run_in_words(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    made_up.write(path, samples=2)
    code, out, err = call(capsys, "show", path)
    assert (code, err) == (0, "")
    lines = {line[:12].strip(): line[12:].rstrip() for line in out.splitlines() if line}
    assert f"{path}, finished" in " ".join(out.split())
    assert lines["model"] == "synthetic, 4 layers of width 32, bfloat16 on cpu, weights 00ff"
    assert lines["outcome"].startswith("8 forwards, 0 masks left, 25.0% of row-layers skipped")
    assert lines["text"] == "answer 0"
    assert lines["event"].startswith("misaligned_rows: row 0 is position 0")
    assert "sketch: layer 2, 8 forwards, float32" in out
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    record = open_trace(path).records[0]
    for row, block in zip(rows, (0, 1), strict=True):
        steps = [step for step in record.steps if step.block == block]
        changed, back = sum(len(s.edited) for s in steps), sum(len(s.revoked) for s in steps)
        committed, masks = sum(len(s.committed) for s in steps) - changed, steps[-1].masks_after
        skipped = sum(len(s.skipped) for s in steps)
        counts = (block, 4, 4, 1, committed, changed - back, back, masks, 32, skipped)
        assert row[:10] == [str(n) for n in counts]


@pytest.mark.usefixtures("wide")
def test_show_lists_steps_and_one_step(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    made_up.write(path)
    record = open_trace(path).records[0]
    _, brief, _ = call(capsys, "show", path)
    _, out, _ = call(capsys, "show", path, "--steps")
    assert len(out.splitlines()) == len(brief.splitlines()) + 10
    code, out, _ = call(capsys, "show", path, "--step", "1.1")
    assert code == 0
    step = record.steps[5]
    assert out.startswith("block 1, step 1, forward 5")
    masks = [p for p in step.committed if p not in step.edited]
    assert f"committed   {spans(masks)}" in out
    for candidate in step.candidates:
        assert any(
            line.split()[:5]
            == [str(n) for n in (candidate.position, candidate.position - 3)]
            + [str(candidate.rank), "id", str(candidate.token)]
            for line in out.splitlines()
        )
    for where, message in (
        ("7.0", "the run has no step 7.0; the last is 1.3"),
        ("seven", "--step is 'seven', must be BLOCK.STEP"),
    ):
        code, _, err = call(capsys, "show", path, "--step", where)
        assert code == 2
        assert message in err


def test_show_json_is_strict_and_complete(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    step = made_up.step(0)
    odd = replace(step.candidates, confidence=np.full(len(step.candidates), np.nan))
    with TraceWriter(path) as sink:
        sink.begin([made_up.header()], "decisions")
        sink.step(0, replace(step, candidates=odd), {})
    with open_trace(path) as trace:
        trace.add_experiment("fresh-kv", "{}", '{"restored": true}')
    _, out, _ = call(capsys, "show", path, "--json", "--steps", "--step", "0.0")
    shown = strict(out)
    assert (shown["closed"], shown["outcome"]) == (False, None)
    assert shown["experiments"] == [
        {"key": "fresh-kv", "request": "{}", "outcome": '{"restored": true}'}
    ]
    steps, found = shown["steps"], shown["step"]
    assert isinstance(steps, list)
    assert isinstance(found, list)
    assert steps[0]["rows"] == step.rows.tolist()
    assert [c["confidence"] for c in found[0]["candidates"]] == [None] * len(odd)
    assert "unfinished" in call(capsys, "show", path)[1]


def test_what_experiments_found_is_shown_in_words(
    capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    made_up.write(path, forwards=2)
    finding = {"what": "a row is old", "rule": "stale-kv", "proof": "sufficient"}
    kept = {
        "run A again [1]": (
            {"seconds": 0.29425839299801737, "outcome": "1 steps"},
            "1 step, 0.29 s",
        ),
        "run B again [2]": ({"seconds": 2.0, "outcome": "12 steps"}, "12 steps, 2.00 s"),
        "diagnosis": (
            {"verdict": "stale-kv", "findings": [finding], "ruled_out": ["x"] * 500},
            "a row is old [stale-kv], sufficient",
        ),
        "of another program": ({"restored": True}, '{"restored": true}'),
        "steps without end": ({"seconds": 1.0, "outcome": "9" * 99 + " steps"}, ""),
    }
    with open_trace(path) as trace:
        for key, (outcome, _) in kept.items():
            trace.add_experiment(key, "{}", json.dumps(outcome))
        trace.add_experiment("empty", "{}", '{"findings": []}')
        trace.add_experiment("deep", "{}", "[" * 100_000)
    out = " ".join(call(capsys, "show", path)[1].split())
    assert all(f"experiment {key}: {words}" in out for key, (_, words) in kept.items())
    assert "ruled_out" not in out
    assert len(out) < 4000


def test_a_diagnosis_that_found_no_cause_is_shown(
    capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    made_up.write(path, forwards=2)
    with open_trace(path) as trace:
        trace.add_experiment("diagnosis", "{}", '{"findings": [], "summary": "no difference"}')
    assert "diagnosis: no difference" in call(capsys, "show", path)[1]


def test_the_prompt_is_shown_with_its_roles_apart(
    capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    call(capsys, "trace", "Hello there", "-o", path, "--gen-length", "8")
    assert "asked       user | Hello there | assistant" in call(capsys, "show", path)[1]


def test_text_from_a_trace_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    evil = "\x1b[2Jred\x9b31m\r\n[bold]not bold[/bold]\u202e"
    header = replace(
        made_up.header(), model=evil, device=evil, settings={evil: evil}, source=evil, weights=evil
    )
    event = replace(made_up.event(), kind=evil, message=evil, source=evil)
    with TraceWriter(path) as sink:
        sink.begin([replace(header, stated={"label": evil})], "decisions")
        sink.step(0, replace(made_up.step(0), positions_from=evil), {})
        sink.event(0, event)
        sink.end([replace(made_up.outcome(), text=evil)])
    with open_trace(path) as trace:
        trace.add_experiment(evil, "{}", evil)
    for arguments in ("", "--steps --events", "--step 0.0", "--json --step 0.0"):
        code, out, _ = call(capsys, "show", path, *arguments.split())
        assert code == 0
        assert all(character.isprintable() or character == "\n" for character in out)
        assert "[bold]not bold[/bold]" in out
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": 2}))
    values = json.loads(manifest.read_text()) | {"skipstone": evil}
    manifest.write_text(json.dumps(values))
    code, _, err = call(capsys, "show", path)
    assert code == 2
    assert err.rstrip("\n").isprintable()


def test_a_trace_that_cannot_be_opened_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for command in (["show"], ["export", "--to", "perfetto", "-o", tmp_path / "out"]):
        code, out, err = call(capsys, *command, tmp_path)
        assert (code, out) == (2, "")
        assert err.startswith("skipstone: error: ")
        assert len(err.splitlines()) == 1


def without_torch(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command where torch cannot be imported."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from skipstone.cli.main import run\n"
        "code = run(sys.argv[1:]); assert sys.modules['torch'] is None; sys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def huge(path: Path) -> None:
    """A trace of 1 GB whose shards are holes: 256 steps, 65 tensors each."""
    keys = [(tap, layer) for tap in (Tap.STATE, Tap.KEY) for layer in range(1, 33)]
    with TraceWriter(path) as sink:
        sink.begin([made_up.header()], "full")
        for forward in range(256):
            sink.step(0, made_up.step(forward), {})
        sink.end([made_up.outcome()])
    checksums, insert = (
        Checksums(read_manifest(path).run),
        f"INSERT INTO tensors VALUES (?{13 * ',?'})",
    )
    with closing(sqlite3.connect(path / "trace.sqlite")) as database:
        for forward in range(256):
            name = f"s0000-f{forward:06}.safetensors"
            with (path / "shards" / name).open("wb") as shard:
                shard.truncate(4 << 20)
            for number, (tap, layer) in enumerate(keys, 1 + forward * len(keys)):
                where = (number, 0, forward, str(tap), layer, name)
                row = (*where, 8, 4096, "bfloat16", 65536, "p", 4194304, b"content")
                database.execute(insert, (*row, checksums.row("tensors", *row)))
        database.commit()


def test_show_reads_a_trace_of_1_gb_in_a_second_without_torch(path: Path) -> None:
    huge(path)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = without_torch("show", path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "1.08 GB" in done.stdout
    assert "key: layers 1 to 32, 256 forwards" in done.stdout
    # Time on the processor: the machine may be busy with something else.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_what_needs_no_torch_runs_without_it(path: Path, tmp_path: Path) -> None:
    made_up.write(path)
    for arguments in (
        ["--help"],
        ["--version"],
        ["show", "--help"],
        ["export", path, "--to", "parquet", "-o", tmp_path / "tables"],
        ["export", path, "--to", "perfetto", "-o", tmp_path / "timeline.json"],
    ):
        assert without_torch(*arguments).returncode == 0
    # Control: what decodes does need it.
    assert without_torch("generate", "w1").returncode == 2


def test_the_list_of_commands_names_commands_that_exist(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = call(capsys, "--help")
    for name, entry in COMMANDS.items():
        command = skipstone.get_command(click.Context(skipstone), name)
        assert isinstance(command, click.Command)
        assert command.name == name
        assert f"  {name}" in out
        assert entry.help in out
        assert entry.help.endswith(".")
    assert skipstone.get_command(click.Context(skipstone), "shwo") is None
    assert "did you mean 'show'?" in call(capsys, "shwo")[2]


# --- export


def test_parquet_holds_every_value(
    capsys: pytest.CaptureFixture[str], path: Path, tmp_path: Path
) -> None:
    made_up.write(path, samples=2)
    folder = tmp_path / "tables"
    code, out, err = call(capsys, "export", path, "--to", "parquet", "-o", folder)
    assert (code, out, err) == (0, "", f"[written: {folder}]\n")
    tables = {name: pq.read_table(folder / f"{name}.parquet") for name in export.TABLES}
    steps = tables["steps"].to_pylist()
    candidates, judged = tables["candidates"].to_pylist(), tables["judgements"].to_pylist()
    assert [(s["sample"], s["forward"]) for s in steps] == [
        (a, f) for a in (0, 1) for f in range(8)
    ]
    for row in steps:
        truth = made_up.step(row["forward"], row["sample"])
        for name in row.keys() - {"sample"}:
            value = getattr(truth, name)
            assert row[name] == (value.tolist() if isinstance(value, np.ndarray) else value)
        mine = [c for c in candidates if c["sample"] == row["sample"]]
        mine = [c for c in mine if c["forward"] == row["forward"]]
        assert [c["confidence"] for c in mine] == truth.candidates.confidence.tolist()
        assert [c["committed"] for c in mine] == truth.candidates.committed.tolist()
        seen = [j["similarity"] for j in judged if (j["sample"], j["forward"]) == key_of(row)]
        assert seen == ([] if truth.judgements is None else truth.judgements.similarity.tolist())
    tensors = tables["tensors"].to_pylist()
    assert len(tensors) == 2 * 8 * 4
    logits = next(t for t in tensors if t["tap"] == "logits")
    assert (logits["rows"], logits["width"], logits["dtype"]) == (7, 8, "float32")
    assert (path / "shards" / logits["shard"]).is_file()


def key_of(row: dict[str, object]) -> tuple[object, object]:
    return row["sample"], row["forward"]


def test_an_empty_trace_has_the_same_tables(path: Path, tmp_path: Path) -> None:
    with TraceWriter(path) as sink:
        sink.begin([made_up.header()], "decisions")
    made_up.write(tmp_path / "full.trace")
    schemas = list[dict[str, object]]()
    for source in (path, tmp_path / "full.trace"):
        folder = source.with_suffix(".tables")
        with open_trace(source) as trace:
            export.to_parquet(trace, folder)
        files = sorted(folder.iterdir())
        schemas.append({file.name: pq.read_schema(file) for file in files})
    assert schemas[0] == schemas[1]


def test_the_timeline_has_each_forward_and_counter(path: Path, tmp_path: Path) -> None:
    made_up.write(path, samples=2)
    file = tmp_path / "timeline.json"
    with open_trace(path) as trace:
        export.to_perfetto(trace, file)
    value = strict(file.read_text())
    events = value["traceEvents"]
    assert isinstance(events, list)
    for sample in (0, 1):
        mine = [event for event in events if event["pid"] == sample]
        forwards = [event for event in mine if event["ph"] == "X"]
        truth = [made_up.step(f, sample) for f in range(8)]
        assert [event["dur"] for event in forwards] == pytest.approx(
            [s.seconds * 1e6 for s in truth]
        )
        ends = [event["ts"] + event["dur"] for event in forwards]
        assert [event["ts"] for event in forwards[1:]] == pytest.approx(ends[:-1])
        for name, numbers in (
            ("masks", [step.masks_after for step in truth]),
            ("commits", [len(step.committed) for step in truth]),
            ("skips", [len(step.skipped) for step in truth]),
        ):
            counters = [event for event in mine if (event["ph"], event["name"]) == ("C", name)]
            assert [event["args"][name] for event in counters] == numbers
            assert len(set(numbers)) > 1


def full_disk(*arguments: object, **settings: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("target", ["parquet", "perfetto"])
def test_exports_overwrite_nothing_and_leave_nothing_half_done(
    capsys: pytest.CaptureFixture[str],
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
) -> None:
    made_up.write(path)
    output = tmp_path / "output"
    output.write_text("mine")

    def arguments(at: Path) -> list[str | Path]:
        return ["export", path, "--to", target, "-o", at]

    code, _, err = call(capsys, *arguments(output))
    assert code == 2
    assert "exists already" in err
    assert output.read_text() == "mine"
    code, _, err = call(capsys, *arguments(tmp_path / "missing" / "output"))
    assert code == 2
    assert "cannot be written (No such file or directory)" in err
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full_disk)
    monkeypatch.setattr(Path, "write_text", full_disk)
    code, _, err = call(capsys, *arguments(tmp_path / "other"))
    assert code == 2
    assert "No space left on device" in err
    assert not (tmp_path / "other").exists()


def test_parquet_without_pyarrow_names_the_remedy(
    capsys: pytest.CaptureFixture[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up.write(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    output = path.with_name("tables")
    code, _, err = call(capsys, "export", path, "--to", "parquet", "-o", output)
    assert code == 2
    assert "Parquet needs pyarrow, which is not installed; run: pip install 'pyarrow>=" in err
    assert not output.exists()


def test_positions_and_sizes_read_well() -> None:
    assert spans([]) == "none"
    assert spans([3, 4, 5, 9, 11, 12]) == "3-5, 9, 11-12"
    assert [size(n) for n in (0, 999, 1000, 1_500_000, 4 << 30, 10**15)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "1.5 MB",
        "4.29 GB",
        "1e+03 TB",
    ]


def test_the_key_of_a_missing_tensor_is_no_error(path: Path) -> None:
    made_up.write(path, level="decisions")
    assert os.listdir(path / "shards") == []
    assert open_trace(path).tensor(0, TensorKey(0, Tap.STATE, 2)) is None


def test_the_example_of_the_documentation_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "traces.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(page.split("```python\n")[1].split("```")[0], {})
    with open_trace("run.trace") as trace:
        assert capsys.readouterr().out == f"{trace.records[0].steps[0].committed}\n"
