"""What does tracing cost? Pairs of runs, untraced and traced, in turn, in one process.

``python benchmarks/trace_cost.py`` measures the embedded model; ``--shape 8b --device cuda`` a
model of LLaDA-8B's shape with random weights, whose speed does not depend on their values; and
``--shape narrow`` one with its vocabulary, layers and rows that is only 64 wide, so that a CPU runs
it. The schedule is fixed, so every run makes the same forwards. Each level is written to disk as a
user would; ``--sink memory`` keeps it in memory instead, and both may be asked for.

What a trace adds to a run can drown in the machine's moods. So the time that the run spends inside
the recorder stands beside it; what a thread of the writer does meanwhile is not in it.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import cast, get_args

import click
import torch

from skipstone.bench.random_model import random_model
from skipstone.cache import DualCache
from skipstone.engine import Engine, Result, Settings
from skipstone.engine.engine import RunnerName
from skipstone.engine.observe import Observer, StepView, Taps
from skipstone.models.load import Model, load
from skipstone.models.shapes import LLADA_8B
from skipstone.outputs import write_whole
from skipstone.record import TraceWriter
from skipstone.tracing import Recorder
from skipstone.tracing.record.recorder import Level
from skipstone.unmask import Fixed

LEVELS = cast("tuple[Level, ...]", get_args(Level))
SINKS = ("disk", "memory")
_PROMPT = list(range(5, 24))
_CONFIGS = {
    "8b": LLADA_8B,
    "narrow": replace(LLADA_8B, width=64, num_heads=1, num_kv_heads=1, mlp_width=192),
}


@dataclass(frozen=True)
class Cost:
    """One level against no trace."""

    level: str
    sink: str
    """Where the trace goes: disk, or memory."""
    pairs: int
    untraced_s: float
    """Median seconds of a run."""
    traced_s: float
    percent: float
    """Median over the pairs of what the trace adds."""
    low_percent: float
    """First quartile of the pairs."""
    high_percent: float
    """Third quartile."""
    ms_per_step: float
    inside_ms: float
    """Median milliseconds of a step that the decoding thread spends in the recorder."""
    inside_high_ms: float
    """Nine steps of ten take less."""
    megabytes: float


class Clocked:
    """An observer that notes how long another one takes for each step."""

    def __init__(self, inner: Observer) -> None:
        self._inner = inner
        self.seconds = list[float]()

    @property
    def taps(self) -> Taps:
        """What the other one wants."""
        return self._inner.taps

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Tell the other one."""
        self._inner.on_start(model, settings, prompts)

    def on_step(self, view: StepView) -> None:
        """Show the other one, and look at the clock."""
        started = time.perf_counter()
        self._inner.on_step(view)
        self.seconds.append(time.perf_counter() - started)

    def on_end(self, results: Sequence[Result]) -> None:
        """Tell the other one."""
        self._inner.on_end(results)


def measure(engine: Engine, level: Level, sink: str, pairs: int, folder: Path) -> Cost:
    """Run untraced and traced in turn; which goes first alternates."""
    times, inside, size = list[tuple[float, float]](), list[float](), 0
    for i in range(pairs + 1):
        path = folder / f"{level}-{i}"
        window = ((0, 1), (0, 2)) if level == "window" else None
        writer = TraceWriter(path) if sink == "disk" else None
        recorder = Clocked(Recorder(level, sink=writer, window=window))
        if i % 2:
            plain, traced = _timed(engine, None), _timed(engine, recorder)
        else:
            traced, plain = _timed(engine, recorder), _timed(engine, None)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        shutil.rmtree(path, ignore_errors=True)
        if i:  # the first pair warms up
            times.append((plain, traced))
            inside += recorder.seconds
    added = sorted(100 * (traced / plain - 1) for plain, traced in times)
    quartiles = statistics.quantiles(added, n=4)
    plain = statistics.median(p for p, _ in times)
    traced = statistics.median(t for _, t in times)
    steps = engine.settings.steps or engine.settings.gen_length
    return Cost(
        level=level,
        sink=sink,
        pairs=pairs,
        untraced_s=plain,
        traced_s=traced,
        percent=statistics.median(added),
        low_percent=quartiles[0],
        high_percent=quartiles[2],
        ms_per_step=1000 * statistics.median(t - p for p, t in times) / steps,
        inside_ms=1000 * statistics.median(inside),
        inside_high_ms=1000 * statistics.quantiles(inside, n=10)[-1],
        megabytes=size / 1e6,
    )


def _timed(engine: Engine, observer: Observer | None) -> float:
    if engine.model.network.device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    engine.generate(_PROMPT, observer=observer)
    return time.perf_counter() - started


@click.command()
@click.option("--shape", type=click.Choice(["pebble", *_CONFIGS]), default="pebble")
@click.option("--device", default="cpu")
@click.option("--runner", type=click.Choice(["auto", "eager", "graph"]), default="auto")
@click.option("--steps", default=64)
@click.option("--gen-length", default=128)
@click.option("--pairs", default=20)
@click.option("--level", "levels", multiple=True, type=click.Choice(LEVELS), default=LEVELS)
@click.option("--sink", "sinks", multiple=True, type=click.Choice(SINKS), default=SINKS[:1])
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    shape: str,
    device: str,
    runner: RunnerName,
    steps: int,
    gen_length: int,
    pairs: int,
    levels: tuple[Level, ...],
    sinks: tuple[str, ...],
    output: Path | None,
) -> None:
    """Measure and print the table; write it as JSON too if asked."""
    if device == "cpu":
        torch.set_num_threads(1)
    if shape == "pebble":
        model = load("pebble")
    else:
        place = torch.device(device)
        model = random_model(f"random-{shape}", _CONFIGS[shape], place, torch.bfloat16)
    settings = Settings(
        cache=DualCache(), unmask=Fixed(), gen_length=gen_length, steps=steps, eos_stop=False
    )
    engine = Engine(model, settings, runner=runner)
    costs = list[Cost]()
    print(
        f"{'level':10} {'sink':6} {'pairs':>5} {'plain s':>8} {'added %':>8} {'quartiles':>15} "
        f"{'ms/step':>8} {'inside':>7} {'9 of 10':>7}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for level, sink in product(levels, sinks):
            few = pairs if level in ("decisions", "window") else max(4, pairs // 4)
            cost = measure(engine, level, sink, few, Path(folder))
            costs.append(cost)
            spread = f"{cost.low_percent:.2f} to {cost.high_percent:.2f}"
            print(
                f"{level:10} {sink:6} {few:5} {cost.untraced_s:8.3f} {cost.percent:8.2f} "
                f"{spread:>15} {cost.ms_per_step:8.3f} {cost.inside_ms:7.3f} "
                f"{cost.inside_high_ms:7.3f}  {cost.megabytes:.1f} MB"
            )
    if output is not None:
        where = torch.cuda.get_device_name() if device == "cuda" else "cpu, one thread"
        value = {
            "command": f"trace_cost.py --shape {shape} --steps {steps} --gen-length {gen_length}",
            "machine": where,
            "torch": torch.__version__,
            "steps": steps,
            "levels": [vars(cost) for cost in costs],
        }
        write_whole(output, json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
