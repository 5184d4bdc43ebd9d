"""Every command with a sound command line, and two traces to run it on."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from skipstone import Engine, load
from skipstone.cli.main import skipstone
from skipstone.record import TraceWriter
from skipstone.tracing import Recorder


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two short traces of the embedded model."""
    folder = tmp_path_factory.mktemp("traces")
    paths = folder / "a.trace", folder / "b.trace"
    for path, steps in zip(paths, (4, 2), strict=True):
        with TraceWriter(path) as sink:
            engine = Engine(load("pebble"), gen_length=4, steps=steps, budget="stop")
            engine.generate("Hi", observer=Recorder("sketches", sink=sink))
    return paths


def sound(name: str, traces: tuple[Path, Path], here: Path) -> list[str]:
    """A sound command line of a command, as short as it can be."""
    a, b = traces
    prompts = here / "prompts.txt"
    prompts.write_text("Hi\n")
    few = "--gen-length 4"
    lines = {
        "audit": f"--baseline cache=none --candidate cache=dual --prompts {prompts} {few} "
        f"--max-disagreement 50%",
        "bench": "--only step",
        "compare": f"Hi --a cache=none --b cache=dual {few}",
        "diagnose": f"{a} {b} --time-limit 0.1s",
        "diff": f"{a} {b} --floor estimate",
        "env": "",
        "export": f"{a} --to perfetto -o {here / 'out.json'}",
        "generate": f"Hi {few}",
        "leaderboard": f"--prompts {prompts} --quick -o {here / 'board'} {few}",
        "models": "",
        "policies": "",
        "report": f"{a} {b} -o {here / 'out.html'} --time-limit 0 --floor estimate",
        "roofline": "--batch 1",
        "serve": "--port 0",
        "show": f"{a}",
        "step": f"{a} --at 0.0",
        "sweep": f"--prompts {prompts} --grid cache=none,dual -o {here / 'sweep'} {few}",
        "trace": f"Hi -o {here / 'out.trace'} {few}",
    }
    return lines[name].split()


def params_of(name: str) -> list[click.Parameter]:
    command = skipstone.get_command(click.Context(skipstone), name)
    assert command is not None
    return command.params
