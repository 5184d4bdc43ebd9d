"""Requests as they come, at LLaDA-8B's shape: by confidence, at once, and one by one.

    python -m benchmarks.requests -o out.json

Weights are random: the schedule is forced, and the threshold is one that such a model reaches for
about four tokens a step. The least time is that of the products alone, computed again for the rows
that each step had: no attention, no norms, no scores, no host.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch

from skipstone import Engine, Fixed, Model, Settings, Threshold
from skipstone.bench.random_model import random_model
from skipstone.canvas import StepContext
from skipstone.engine.request import Handle
from skipstone.engine.step import InFlightStep, Stepper
from skipstone.models.parts.decoder import Decoder
from skipstone.models.parts.mlp import MLP
from skipstone.models.shapes import LLADA_8B
from skipstone.outputs import write_whole
from skipstone.rows import Rows
from skipstone.tracing import Recorder

BASE = Settings(unmask=Fixed(), gen_length=128, steps=32, eos_stop=False)


@dataclass(frozen=True)
class Forwards:
    """Time of a forward by schedule and by confidence, batch 1."""

    policy: str
    forwards: int
    ms_a_forward: float
    spread_ms: tuple[float, float]


@dataclass(frozen=True)
class AtOnce:
    """Prompts of different lengths that wait from the beginning."""

    slots: int
    seconds: float
    tokens_per_second: float
    least_seconds: float
    """Of the products of the same rows."""
    share: float
    """Least time over time."""


@dataclass(frozen=True)
class Poisson:
    """Prompts that arrive one by one, at a share of what the engine can do."""

    seed: int
    """Of the gaps between arrivals."""
    load: float
    """Of what is decoded when all wait from the beginning."""
    slots: int
    arrivals: int
    empty_median_s: float
    """Median of the same prompts, each alone."""
    median_s: float
    p90_s: float
    p99_s: float
    ratio: float
    """The slowest in a hundred over an empty server's median."""


def prompts(count: int, seed: int) -> list[list[int]]:
    """Ids of 50 to 600 tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(5, 50_000, int(n)).tolist() for n in rng.integers(50, 601, count)]


def reached(model: Model, prompt: list[int]) -> float:
    """A threshold that about one in eight masks reaches in a step."""
    recorder = Recorder()
    Engine(model, BASE).generate(prompt, observer=recorder)
    steps = recorder.records[0].steps[1:8]
    return float(np.quantile(np.concatenate([s.candidates.confidence for s in steps]), 0.875))


def per_forward(model: Model, repeats: int) -> list[Forwards]:
    """The schedule, and a threshold; both sides in turn."""
    prompt = prompts(1, 7)[0][:256]
    value = reached(model, prompt)
    engines = {
        "fixed": Engine(model, BASE),
        f"threshold:{value:.3g}": Engine(model, BASE, unmask=Threshold(value), steps=None),
    }
    times = {name: list[float]() for name in engines}
    counts = dict[str, int]()
    for turn in range(repeats + 2):
        for name, engine in engines.items():
            torch.cuda.synchronize()
            started = time.perf_counter()
            result = engine.generate(prompt)
            took = (time.perf_counter() - started) * 1e3
            counts[name] = result.stats.num_forwards
            if turn > 1:
                # The refreshes of four blocks cost the same on both sides.
                times[name].append(took / result.stats.num_forwards)
    return [
        Forwards(name, counts[name], statistics.median(t), (min(t), max(t)))
        for name, t in times.items()
    ]


def at_once(model: Model, slots: int, count: int, repeats: int) -> AtOnce:
    """Decode all, at most so many at once; and the products of the same steps."""
    engine, asked = Engine(model, BASE), prompts(count, 3)
    launch, rows = Stepper.launch, Counter[tuple[int, int]]()

    def noted(self: Stepper, context: StepContext, computed: Rows) -> InFlightStep:
        flight = launch(self, context, computed)
        scored = flight.scored.rows.num_rows if flight.scored.rows is not None else 0
        rows[flight.rows.num_rows, scored] += 1
        return flight

    with patch.object(Stepper, "launch", noted):
        engine.generate_batch(asked, batch_size=slots)
    times = list[float]()
    for _ in range(repeats):
        started = time.perf_counter()
        engine.generate_batch(asked, batch_size=slots)
        times.append(time.perf_counter() - started)
    seconds, least = statistics.median(times), products(model, rows)
    return AtOnce(slots, seconds, 128 * count / seconds, least, least / seconds)


@torch.inference_mode()
def products(model: Model, rows: Counter[tuple[int, int]]) -> float:
    """Seconds of the products of steps with so many rows, of which so many are scored."""
    network = model.network
    assert isinstance(network, Decoder)
    seconds = 0.0
    for (count, scored), times in rows.items():
        x_ND = torch.randn(count, LLADA_8B.width, device="cuda", dtype=network.dtype)
        runs = list[float]()
        for _ in range(3):
            torch.cuda.synchronize()
            started = time.perf_counter()
            for layer in network.layers:
                assert isinstance(layer.mlp, MLP)
                layer.attention.qkv(x_ND)
                layer.attention.out(x_ND)
                both = layer.mlp.gate_up(x_ND)
                layer.mlp.down(both[:, : both.shape[1] // 2])
            if scored:
                network.head(x_ND[:scored])
            torch.cuda.synchronize()
            runs.append(time.perf_counter() - started)
        seconds += times * min(runs)
    return seconds


def poisson(
    engine: Engine,
    slots: int,
    load: float,
    capacity: float,
    count: int,
    seed: int,
    empty_s: float,
) -> Poisson:
    """Submit prompts at ``load`` of ``capacity``, in requests a second, and wait for each."""
    asked = prompts(count, 5 + seed)
    gaps = np.random.default_rng(9 + seed).exponential(1 / (load * capacity), count)
    took = [0.0] * count

    def wait(n: int, handle: Handle, started: float) -> None:
        handle.result()
        took[n] = time.perf_counter() - started

    waiters = list[threading.Thread]()
    due = time.perf_counter()
    for n, (prompt, gap) in enumerate(zip(asked, gaps, strict=True)):
        due += gap
        time.sleep(max(0.0, due - time.perf_counter()))
        waiter = threading.Thread(target=wait, args=(n, engine.submit(prompt), due))
        waiter.start()
        waiters.append(waiter)
    for waiter in waiters:
        waiter.join()
    median, p90, p99 = (float(np.quantile(took, q)) for q in (0.5, 0.9, 0.99))
    return Poisson(seed, load, slots, count, empty_s, median, p90, p99, p99 / empty_s)


def empty(engine: Engine) -> float:
    """Median seconds of a prompt that finds nobody."""
    times = list[float]()
    for prompt in prompts(12, 5):
        started = time.perf_counter()
        engine.submit(prompt).result()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


@click.command()
@click.option("--repeats", default=5, show_default=True)
@click.option("--slots", default=16, show_default=True)
@click.option("--arrivals", default=300, show_default=True)
@click.option("--seeds", default=3, show_default=True, help="Runs of arrivals: p99 varies by run.")
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(repeats: int, slots: int, arrivals: int, seeds: int, out: Path | None) -> None:
    """Time requests by confidence, at once, and one by one."""
    model = random_model("llada-8b", LLADA_8B, torch.device("cuda"), torch.bfloat16)
    forwards = per_forward(model, repeats)
    for one in forwards:
        low, high = one.spread_ms
        span = f"{low:.3f} to {high:.3f}"
        print(f"{one.policy:20} {one.forwards:4} forwards  {one.ms_a_forward:.3f} ms ({span})")
    print(f"threshold over schedule {forwards[1].ms_a_forward / forwards[0].ms_a_forward:.3f} x")
    whole = at_once(model, slots, 48, max(1, repeats // 2))
    print(
        f"48 prompts, {slots} slots: {whole.tokens_per_second:.0f} tokens/s, "
        f"{whole.share:.1%} of the products"
    )
    engine, arriving = Engine(model, BASE, slots=slots), list[Poisson]()
    empty_s = empty(engine)
    for seed in range(seeds):
        one = poisson(engine, slots, 0.7, 48 / whole.seconds, arrivals, seed, empty_s)
        print(
            f"Poisson at {one.load:.0%}, seed {seed}: median {one.median_s:.2f} s, p99 "
            f"{one.p99_s:.2f} s, alone {one.empty_median_s:.3f} s: {one.ratio:.2f} x"
        )
        arriving.append(one)
    ratio = statistics.median(one.ratio for one in arriving)
    print(f"median of {seeds} seeds: {ratio:.2f} x")
    if out is not None:
        facts = {
            "command": "python -m benchmarks.requests",
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "forwards": [asdict(one) for one in forwards],
            "at_once": asdict(whole),
            "poisson_ratio": ratio,
            "poisson": [asdict(one) for one in arriving],
        }
        write_whole(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
