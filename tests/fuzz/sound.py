"""Sound inputs, made once and then copied and broken: a tiny model and what it writes."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import asdict
from pathlib import Path

from skipstone import Engine, Recorder, Settings, TraceWriter, load, run_sweep
from skipstone.cli.main import run
from skipstone.diff.agreement import Question
from skipstone.engine.settings import parse_settings, parse_spec
from skipstone.sweep.grid import parse_grid
from skipstone.sweep.run import exact
from skipstone.testing.checkpoint import write_checkpoint
from tests.helpers import synthetic_trace

LENGTHS = ("--gen-length", "8", "--block-length", "4")
GRID = "unmask=threshold:0.2"
QUESTIONS = tuple(Question(f"prompt {i}") for i in range(3))


def build(folder: Path) -> None:
    """Everything that cases start from; takes a few seconds."""
    write_checkpoint(folder / "model")
    write_checkpoint(folder / "shards", shards=2)
    (folder / "prompts.txt").write_text("one\ntwo\nthree\n")
    lines = ({"prompt": "one", "answer": "1"}, {"prompt": "two"}, {"prompt": "3", "answer": 3})
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"a.trace": "unmask=fixed", "b.trace": "unmask=threshold:0.2 cache=none"}
    for name, spec in settings.items():
        _trace(folder, folder / name, spec)
    synthetic_trace.write(folder / "made_up.trace", forwards=4, samples=2)
    (folder / "sweep.json").write_text(json.dumps(sweep(folder, folder / "sweep")))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run(audit_arguments(folder, folder / "log.jsonl"))
    (folder / "audit.json").write_text(out.getvalue())


def _trace(folder: Path, path: Path, spec: str) -> None:
    base = Settings(gen_length=8, block_length=4, eos_stop=False)
    engine = Engine(load(folder / "model"), parse_settings(parse_spec(spec), base))
    with TraceWriter(path) as sink:
        engine.generate("one", observer=Recorder("full", sink=sink))


def sweep(folder: Path, output: Path) -> list[dict[str, object]]:
    """Run the sweep, or go on with it. Returns its measurements as JSON has them."""
    base = Settings(gen_length=8, block_length=4, eos_stop=False)
    points = parse_grid(GRID, base, exact(base))
    model = load(folder / "model")
    done = run_sweep(model, QUESTIONS, points.settings, output, baseline=exact(base))
    return json.loads(json.dumps([asdict(m) for m in done.measurements]))


def audit_arguments(folder: Path, log: Path) -> list[str]:
    """The audit whose log this is; it prints JSON."""
    return [
        *("audit", "--baseline", "skip=none", "--candidate", "unmask=threshold:0.2"),
        *("--prompts", str(folder / "prompts.txt"), "--max-disagreement", "50%"),
        *("--model", str(folder / "model"), *LENGTHS, "-o", str(log), "--json"),
    ]
