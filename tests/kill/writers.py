"""Every command that writes: how it is run, and what has to hold after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from skipstone import Engine, Recorder, Settings, TraceWriter, load, open_trace
from skipstone.cli.main import run
from skipstone.unmask import Fixed
from tests.fuzz.kinds.traces import contents
from tests.kill.process import Told

_TIMES = ("seconds", "tokens_per_second")


class Broken(Exception):
    """The law does not hold."""


@dataclass(frozen=True)
class Writer:
    """A command that writes, and its law. Folders: ``sound`` is read, ``here`` is written to."""

    name: str
    arguments: Callable[[Path], list[str]]
    """The command line, from the folder of sound inputs; it runs in ``here``."""
    law: Callable[[Path, Path, Sequence[str]], None]
    """After a kill: of ``here``, an undisturbed ``here``, and what was told to be finished."""
    same: Callable[[Path, Path], None]
    """After the command was run again: it is as if nothing had happened."""
    act: Callable[[Path, Told], int] | None = None
    """What a warm process does, if it is not just the command line."""
    codes: tuple[int, ...] = (0,)
    prepare: Callable[[Path, Path], object] = lambda sound, here: None
    """Lays out what the command finds there: sound inputs that it changes, older outputs."""
    once: str = ""
    """An output that is never overwritten; who runs the command again moves it away."""
    weight: int = 1


def demand(condition: object, what: str) -> None:
    """Raise if the law does not hold."""
    if not condition:
        raise Broken(what)


# --- traces ---------------------------------------------------------------------------------------


def _trace_arguments(sound: Path) -> list[str]:
    return [
        *("trace", "one", "--model", f"{sound}/model", "--gen-length", "24", "--no-eos-stop"),
        *("--unmask", "fixed", "--level", "full", "-o", "run.trace"),
    ]


def _telling_steps(tell: Told) -> AbstractContextManager[object]:
    """Tell of each step when the writer has returned from it."""
    write = TraceWriter._write_step

    def told(self: TraceWriter, sample: int, record: Any, tensors: Any) -> None:
        write(self, sample, record, tensors)
        tell(f"{record.forward}")

    return mock.patch.object(TraceWriter, "_write_step", told)


def _trace(sound: Path, tell: Told) -> int:
    with _telling_steps(tell):
        return run(_trace_arguments(sound))


def _decode_with_trace(sound: Path, tell: Told) -> int:
    """The same from Python, with a trace of decisions, which a thread writes."""
    engine = Engine(load(sound / "model"), Settings(gen_length=24, unmask=Fixed(), eos_stop=False))
    with _telling_steps(tell), TraceWriter("run.trace") as sink:
        engine.generate("one", observer=Recorder("decisions", sink=sink))
    return 0


def _trace_law(here: Path, undisturbed: Path, told: Sequence[str]) -> None:
    """The steps are those of an undisturbed run up to some step, with all that was told."""
    path = here / "run.trace"
    if not path.exists():
        demand(not told, f"{len(told)} finished steps, and no trace")
        return
    with open_trace(path) as trace, open_trace(undisturbed / "run.trace") as whole:
        steps, wanted = trace.records[0].steps, whole.records[0].steps
        demand(len(steps) >= len(told), f"{len(told)} finished steps, {len(steps)} on the disk")
        demand(
            trace.closed <= (len(steps) == len(wanted)), "an unfinished trace says it is finished"
        )
        for step, other in zip(steps, wanted, strict=False):
            demand(step.forward == other.forward, f"step {other.forward} is missing")
            demand(list(step.ids_after) == list(other.ids_after), f"step {step.forward} is another")
        for key in trace.keys(0):
            demand(trace.tensor(0, key) is not None, f"{key} is named and missing")


def _trace_again(here: Path, undisturbed: Path) -> None:
    with open_trace(here / "run.trace") as trace, open_trace(undisturbed / "run.trace") as whole:
        demand(trace.closed, "the trace is not finished")
        demand(trace.outcomes[0].tokens == whole.outcomes[0].tokens, "other tokens")  # type: ignore[union-attr]


def _diagnose_law(here: Path, undisturbed: Path, told: Sequence[str]) -> None:
    """Notes on experiments never cost a recorded step."""
    for name in ("a.trace", "b.trace"):
        demand(contents(here / name) == contents(undisturbed / name), f"{name} has changed")
        with open_trace(here / name) as trace:
            for kept in trace.experiments:
                json.loads(kept.outcome)


# --- files and folders ----------------------------------------------------------------------------


def _absent_or_whole(*names: str) -> Callable[[Path, Path, Sequence[str]], None]:
    """Each output is not there, is as before, or is as an undisturbed run leaves it."""

    def law(here: Path, undisturbed: Path, told: Sequence[str]) -> None:
        for name in names:
            path = here / name
            if path.exists() and _bytes(path) != {"": b"older"}:
                demand(_bytes(path) == _bytes(undisturbed / name), f"{name} is not whole")

    return law


def _equal(*names: str) -> Callable[[Path, Path], None]:
    def same(here: Path, undisturbed: Path) -> None:
        for name in names:
            demand((here / name).exists(), f"{name} is missing")
            demand(_bytes(here / name) == _bytes(undisturbed / name), f"{name} is another")

    return same


def _bytes(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(file.relative_to(path)).strip("."): file.read_bytes() for file in sorted(files)}


def _older(*names: str) -> Callable[[Path, Path], None]:
    """Outputs of an earlier run, to be replaced."""

    def prepare(sound: Path, here: Path) -> None:
        for name in names:
            (here / name).write_bytes(b"older")

    return prepare


# --- audits and sweeps ----------------------------------------------------------------------------


def _audit_arguments(sound: Path) -> list[str]:
    return [
        *("audit", "--baseline", "skip=none", "--candidate", "unmask=threshold:0.2"),
        *("--prompts", f"{sound}/many.txt", "--max-disagreement", "50%", "--gen-length", "16"),
        *(
            "--model",
            f"{sound}/model",
            "-o",
            "log.jsonl",
            "--junit",
            "out.xml",
            "--sarif",
            "out.json",
        ),
    ]


def _audit(sound: Path, tell: Told) -> int:
    from skipstone.audit.run import Log

    add = Log.add

    def told(self: Log, rows: Any) -> None:
        add(self, rows)
        tell("\n".join(row.prompt for row in rows))

    with mock.patch.object(Log, "add", told):
        return run(_audit_arguments(sound))


def _audit_law(here: Path, undisturbed: Path, told: Sequence[str]) -> None:
    _absent_or_whole("out.xml", "out.json")(here, undisturbed, told)
    rows = _log_rows(here)
    wanted = _log_rows(undisturbed)
    demand(set(told) <= set(rows), "a finished prompt is lost")
    demand(all(wanted.get(prompt) == row for prompt, row in rows.items()), "a row is another")


def _log_rows(here: Path) -> dict[str, str]:
    """Whole lines of a log by prompt, its head among them."""
    path = here / "log.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return {json.loads(line).get("row", {}).get("prompt", ""): line for line in lines}


def _audit_same(here: Path, undisturbed: Path) -> None:
    _equal("out.xml", "out.json")(here, undisturbed)
    demand(_log_rows(here) == _log_rows(undisturbed), "the log is another")


def _sweep_arguments(sound: Path) -> list[str]:
    return [
        *("sweep", "--prompts", f"{sound}/many.txt", "--grid", "unmask=threshold:0.2,fixed"),
        *("--model", f"{sound}/model", "--gen-length", "8", "-o", "out"),
    ]


def _sweep(sound: Path, tell: Told) -> int:
    from skipstone.sweep.store import Store

    add = Store.add

    def told(self: Store, found: Any) -> None:
        add(self, found)
        tell(f"{found[0].prompt:06}.parquet")

    with mock.patch.object(Store, "add", told):
        return run(_sweep_arguments(sound))


def _sweep_law(here: Path, undisturbed: Path, told: Sequence[str]) -> None:
    folder = here / "out"
    parts = {p.name for p in folder.glob("parts/0*.parquet")}
    demand(set(told) <= parts, "a finished prompt is lost")
    for path in folder.rglob("*.parquet"):
        if not path.name.startswith("."):
            demand(_rows(path) == _rows(undisturbed / path.relative_to(here)), f"{path.name}")
    if (folder / "summary.json").exists():
        demand((folder / "results.parquet").exists(), "a summary of nothing")
        json.loads((folder / "summary.json").read_text())
    for name, end in (("pareto.html", b"</html>"), ("pareto.png", b"IEND\xaeB`\x82")):
        if (folder / name).exists():
            demand((folder / name).read_bytes().rstrip().endswith(end), f"{name} is cut off")


def _sweep_same(here: Path, undisturbed: Path) -> None:
    _sweep_law(here, undisturbed, [p.name for p in (undisturbed / "out/parts").iterdir()])
    for path in (undisturbed / "out").iterdir():
        demand((here / "out" / path.name).exists(), f"{path.name} is missing")


def _rows(path: Path) -> list[dict[str, object]]:
    import pyarrow.parquet as pq

    rows = pq.read_table(path, partitioning=None, use_threads=False).to_pylist()
    return [{k: v for k, v in row.items() if k not in _TIMES} for row in rows]


# --- the bench ------------------------------------------------------------------------------------


def _bench_arguments(sound: Path) -> list[str]:
    return [
        *("bench", "--device", "cpu", "--model", f"{sound}/long", "--only", "step", "--rows", "8"),
        *("--batch", "1,2,3,4", "--context", "24", "--repeats", "2", "-o", "out.json"),
    ]


def _bench(sound: Path, tell: Told) -> int:
    """Without what is measured of the machine, which takes most of the time and writes nothing."""
    from skipstone.bench.gate import Check
    from skipstone.engine.roofline import Card

    with ExitStack() as stack:
        passes = [Check("nothing", passed=True, detail="not checked")]
        stack.enter_context(mock.patch("skipstone.bench.gate.gate", return_value=passes))
        card = Card("made up", 1e9, 1e9, "made up")
        stack.enter_context(mock.patch("skipstone.engine.roofline.measure", return_value=card))
        return run(_bench_arguments(sound))


def _bench_law(here: Path, undisturbed: Path, told: Sequence[str]) -> None:
    path = here / "out.json"
    if path.exists() and path.read_bytes() != b"older":
        value, whole = (json.loads((f / "out.json").read_text()) for f in (here, undisturbed))
        done = len(value.get("steps", ())) == len(whole["steps"])
        demand(not value["finished"] or done, "it says it is finished, and cells are missing")


def _bench_same(here: Path, undisturbed: Path) -> None:
    value, whole = (json.loads((f / "out.json").read_text()) for f in (here, undisturbed))
    demand(value["finished"], "it is not finished")
    demand(len(value["steps"]) == len(whole["steps"]), "cells are missing")


# --- all of them ----------------------------------------------------------------------------------


def _export(target: str, name: str) -> Callable[[Path], list[str]]:
    return lambda sound: ["export", f"{sound}/long.trace", "--to", target, "-o", name]


def _copied_traces(sound: Path, here: Path) -> None:
    for name in ("a.trace", "b.trace"):
        shutil.copytree(sound / name, here / name)


WRITERS = {
    writer.name: writer
    for writer in (
        Writer(
            "trace",
            _trace_arguments,
            _trace_law,
            _trace_again,
            act=_trace,
            once="run.trace",
            weight=6,
        ),
        Writer(
            "generate with a trace",
            _trace_arguments,
            _trace_law,
            _trace_again,
            act=_decode_with_trace,
            once="run.trace",
            weight=4,
        ),
        Writer(
            "export parquet",
            _export("parquet", "tables"),
            _absent_or_whole("tables"),
            _equal("tables"),
            once="tables",
            weight=6,
        ),
        Writer(
            "export perfetto",
            _export("perfetto", "out.json"),
            _absent_or_whole("out.json"),
            _equal("out.json"),
            once="out.json",
            weight=3,
        ),
        Writer(
            "report",
            lambda sound: [
                *("report", f"{sound}/a.trace", f"{sound}/b.trace", "--time-limit", "0"),
                *("--floor", "estimate", "-o", "page.html"),
            ],
            _absent_or_whole("page.html"),
            _equal("page.html"),
            prepare=_older("page.html"),
            weight=2,
        ),
        Writer(
            "audit",
            _audit_arguments,
            _audit_law,
            _audit_same,
            act=_audit,
            codes=(0, 1, 3),
            prepare=_older("out.xml"),
            weight=4,
        ),
        Writer("sweep", _sweep_arguments, _sweep_law, _sweep_same, act=_sweep, weight=4),
        Writer(
            "bench",
            _bench_arguments,
            _bench_law,
            _bench_same,
            act=_bench,
            prepare=_older("out.json"),
            weight=3,
        ),
        Writer(
            "diagnose",
            lambda sound: ["diagnose", "a.trace", "b.trace", "--time-limit", "20s", "--keep"],
            _diagnose_law,
            lambda here, undisturbed: _diagnose_law(here, undisturbed, ()),
            codes=(0, 1),
            prepare=_copied_traces,
            weight=1,
        ),
    )
}
