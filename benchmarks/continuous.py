"""What it brings that a place of a batch is taken by the next prompt as soon as it is free.

    python -m benchmarks.continuous --device cpu -o out.json

Held-out questions of the embedded model, whose answers end at different lengths. One side hands all
of them over with a batch size; the other cuts them into batches of that size, each of which waits
for its slowest prompt. The tokens are checked to be the same.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

from benchmarks.loop_overhead import spread
from skipstone import Engine, Fixed, Model, Result, Settings, Threshold, load, policies
from skipstone.cli.prompts import read_questions
from skipstone.engine.observe import Observer, StepView, Taps
from skipstone.outputs import write_whole

# Four tokens a step: what matters here is in which step an answer ends, not how many there are.
CASES = (Settings(unmask=Threshold(0.9)), Settings(unmask=Fixed(), steps=32))
Decode = Callable[[Observer | None], list[Result]]


@dataclass(frozen=True)
class Gain:
    """Places that are taken again against batches that are waited for, under some settings."""

    unmask: str
    steps: int | None
    """Steps of 128 new tokens, where the policy uses them."""
    prompts: int
    batch_size: int
    chunked_steps: int
    """Steps of the engine over all prompts, each a forward of those that take part."""
    continuous_steps: int
    chunked_places: float
    """Requests that take part in a step, on average."""
    continuous_places: float
    chunked_prompts_per_s: float
    """Median of the repeats."""
    continuous_prompts_per_s: float
    times: float
    """Median over the pairs of continuous by chunked."""
    quartiles: tuple[float, float]


class Counting:
    """An observer that counts steps, and who takes part in them."""

    def __init__(self) -> None:
        self.taps = Taps()
        self.steps = self.places = 0

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Go on counting: a run is one of several."""

    def on_step(self, view: StepView) -> None:
        """Count."""
        self.steps += 1
        self.places += len(view.context.requests)

    def on_end(self, results: Sequence[Result]) -> None:
        """Nothing to add."""


def chunked(
    engine: Engine, prompts: Sequence[str], size: int, observer: Observer | None
) -> list[Result]:
    """Batches of which each waits for its slowest prompt."""
    results = list[Result]()
    for first in range(0, len(prompts), size):
        results += engine.generate_batch(prompts[first : first + size], observer=observer)
    return results


def measure(model: Model, settings: Settings, prompts: Sequence[str], size: int, reps: int) -> Gain:
    """Check and count once each way, then time both in turn; which goes first alternates."""
    engine = Engine(model, settings)
    sides: tuple[Decode, Decode] = (
        lambda observer: chunked(engine, prompts, size, observer),
        lambda observer: engine.generate_batch(prompts, batch_size=size, observer=observer),
    )
    counts = Counting(), Counting()
    tokens = [[r.tokens for r in side(seen)] for side, seen in zip(sides, counts, strict=True)]
    if tokens[0] != tokens[1]:
        raise click.ClickException(f"the two sides decode other tokens under {settings!r}")
    if model.network.device.type == "cuda":
        for side in sides:
            side(None)  # captures the graphs of runs that nobody observes
    times = (list[float](), list[float]())
    for i in range(reps):
        for which in (0, 1) if i % 2 else (1, 0):
            times[which].append(_timed(sides[which]))
    low, middle, high = statistics.quantiles((a / b for a, b in zip(*times, strict=True)), n=4)
    return Gain(
        unmask=policies.UNMASK.spell(settings.unmask, brief=True),
        steps=settings.steps,
        prompts=len(prompts),
        batch_size=size,
        chunked_steps=counts[0].steps,
        continuous_steps=counts[1].steps,
        chunked_places=counts[0].places / counts[0].steps,
        continuous_places=counts[1].places / counts[1].steps,
        chunked_prompts_per_s=len(prompts) / statistics.median(times[0]),
        continuous_prompts_per_s=len(prompts) / statistics.median(times[1]),
        times=middle,
        quartiles=(low, high),
    )


def _timed(side: Decode) -> float:
    """Seconds; results are on the host when it returns."""
    started = time.perf_counter()
    side(None)
    return time.perf_counter() - started


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--prompts", "path", default="pebble", type=click.Path(path_type=Path))
@click.option("--limit", default=64, show_default=True, help="Questions, from all over the file.")
@click.option("--batch-size", default=8, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(
    device: str, path: Path, limit: int, batch_size: int, repeats: int, out: Path | None
) -> None:
    """Measure both unmask policies with the dual cache, print, and write if asked."""
    model, before = load("pebble", device=device), os.getloadavg()[0]
    on_gpu = model.network.device.type == "cuda"
    if not on_gpu:
        torch.set_num_threads(1)
    texts = spread([question.prompt for question in read_questions(path, "--prompts")], limit)
    gains = list[Gain]()
    for settings in CASES:
        gains.append(g := measure(model, settings, texts, batch_size, repeats))
        print(
            f"{g.unmask:10} steps {g.chunked_steps} -> {g.continuous_steps}  places "
            f"{g.chunked_places:.1f} -> {g.continuous_places:.1f}  prompts/s "
            f"{g.chunked_prompts_per_s:.2f} -> {g.continuous_prompts_per_s:.2f}  {g.times:.2f} "
            f"times ({g.quartiles[0]:.2f} to {g.quartiles[1]:.2f})",
            flush=True,
        )
    if out is not None:
        cpu = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread"
        facts = {
            "command": f"python -m benchmarks.continuous --device {model.network.device.type} "
            f"--limit {limit} --batch-size {batch_size} --repeats {repeats}",
            "machine": torch.cuda.get_device_name() if on_gpu else cpu,
            "dtype": str(model.network.dtype).removeprefix("torch."),
            "load_average": [before, os.getloadavg()[0]],
            "torch": torch.__version__,
            "gains": [asdict(g) for g in gains],
        }
        write_whole(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
