"""How long a step takes at LLaDA-8B's shape: eager against captured graphs, beside the floor.

    python -m benchmarks.step_time -o out.json

Time does not depend on the weights when the schedule is forced, so they are random. The time of one
cached step is the difference between generations of 32 and of 64 forwards with equally many
refreshes, divided by 32: everything is in it, selection and commit too.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

from skipstone import Engine, Fixed, Model, Settings
from skipstone.bench.random_model import random_model
from skipstone.engine.engine import RunnerName
from skipstone.engine.roofline import Card, Work, bound, measure
from skipstone.models.shapes import LLADA_8B
from skipstone.ops import backend
from skipstone.outputs import write_whole

SHAPES = ((19, 128), (1024, 256))
SIDES: tuple[tuple[RunnerName, backend.Mode], ...] = (
    ("eager", "reference"),
    ("graph", "reference"),
    ("graph", "auto"),
)


@dataclass(frozen=True)
class Timing:
    """One runner at one shape."""

    runner: str
    ops: str
    """``reference``: plain operations; ``auto``: kernels where there are any."""
    prompt: int
    new: int
    generation_ms: float
    """Median of a generation in ``new / 4`` forwards."""
    generation_quartiles_ms: tuple[float, float]
    step_ms: float
    """One cached step of 32 rows, everything included."""
    floor_ms: float
    """Reading weights and K/V once, at the bandwidth measured in this run."""
    times_floor: float
    gigabytes: float
    """Most memory at once, beyond the weights."""


def timed(engine: Engine, prompt: list[int], repeats: int) -> list[float]:
    """Seconds of each of some generations, after two that warm up and capture."""
    times = list[float]()
    for i in range(repeats + 2):
        torch.cuda.synchronize()
        started = time.perf_counter()
        engine.generate(prompt)
        torch.cuda.synchronize()
        if i >= 2:
            times.append(time.perf_counter() - started)
    return times


def measured(
    model: Model,
    side: tuple[RunnerName, backend.Mode],
    shape: tuple[int, int],
    card: Card,
    repeats: int,
) -> Timing:
    """Time generations of few and of many steps."""
    runner, ops = side
    prompt_length, new = shape
    prompt = list(range(5, 5 + prompt_length))
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    settings = Settings(unmask=Fixed(), gen_length=new, eos_stop=False)
    with backend.served_by(ops):
        few, many = (
            timed(Engine(model, settings.replace(steps=steps), runner=runner), prompt, repeats)
            for steps in (new // 4, new // 2)
        )
    step = (statistics.median(many) - statistics.median(few)) / (new // 4)
    low, _, high = statistics.quantiles(few, n=4)
    floor = bound(card, model.config, Work(1, 32, prompt_length + new)).seconds
    return Timing(
        runner=runner,
        ops=ops,
        prompt=prompt_length,
        new=new,
        generation_ms=statistics.median(few) * 1e3,
        generation_quartiles_ms=(low * 1e3, high * 1e3),
        step_ms=step * 1e3,
        floor_ms=floor * 1e3,
        times_floor=step / floor,
        gigabytes=(torch.cuda.max_memory_allocated() - held) / 1e9,
    )


@click.command()
@click.option("--repeats", default=20, show_default=True)
@click.option("--eager/--no-eager", default=True, help="Also the eager runner.")
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(repeats: int, out: Path | None, *, eager: bool) -> None:
    """Time eager and captured steps with plain operations and with kernels, in turn."""
    device = torch.device("cuda")
    model = random_model("llada-8b", LLADA_8B, device, torch.bfloat16)
    card = measure(device, torch.bfloat16)
    sides = SIDES if eager else SIDES[1:]
    timings = [measured(model, s, shape, card, repeats) for shape in SHAPES for s in 2 * sides]
    for t in timings:
        print(
            f"{t.runner:6} {t.ops:9} {t.prompt:5}+{t.new:<4} generation {t.generation_ms:8.1f} ms  "
            f"step {t.step_ms:6.2f} ms  {t.times_floor:5.2f} x floor ({t.floor_ms:.2f} ms)  "
            f"{t.gigabytes:.2f} GB"
        )
    if out is not None:
        facts = {
            "command": "python -m benchmarks.step_time",
            "card": asdict(card),
            "torch": torch.__version__,
        }
        write_whole(
            out, json.dumps({**facts, "timings": [asdict(t) for t in timings]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
