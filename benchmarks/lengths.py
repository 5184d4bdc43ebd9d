"""Prompt lengths that were never seen, at LLaDA-8B's shape: each beside a repeated one of its size.

    python -m benchmarks.lengths -o out.json

The schedule is forced, so that the weights do not matter: they are random. Every length is decoded
once when it is new, then again and again.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

from skipstone import Engine, Fixed, Settings
from skipstone.bench.random_model import random_model
from skipstone.models.shapes import LLADA_8B
from skipstone.outputs import write_whole

LENGTHS = (19, 23, 40, 57, 71, 88, 107, 130, 163, 199, 251, 310, 383, 466, 560, 601)


@dataclass(frozen=True)
class Timing:
    """One prompt length."""

    length: int
    new_ms: float
    """The first time."""
    again_ms: float
    """Median of the times after."""
    spread_ms: tuple[float, float]
    """The least and the most of them."""

    @property
    def ratio(self) -> float:
        """How much longer the first time takes."""
        return self.new_ms / self.again_ms


def timed(engine: Engine, length: int) -> float:
    """Milliseconds of one generation."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    engine.generate(list(range(5, 5 + length)))
    torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1e3


@click.command()
@click.option("--repeats", default=5, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(repeats: int, out: Path | None) -> None:
    """Time each length when it is new, and again."""
    model = random_model("llada-8b", LLADA_8B, torch.device("cuda"), torch.bfloat16)
    settings = Settings(unmask=Fixed(), gen_length=128, steps=32, eos_stop=False)
    engine = Engine(model, settings)
    first = timed(engine, 211)
    usual = statistics.median(timed(engine, 211) for _ in range(repeats))
    print(f"first generation {first:.0f} ms, then {usual:.1f} ms", flush=True)
    timings = list[Timing]()
    for length in LENGTHS:
        new = timed(engine, length)
        again = sorted(timed(engine, length) for _ in range(repeats))
        found = Timing(length, new, statistics.median(again), (again[0], again[-1]))
        timings.append(found)
        print(f"{length:5} new {new:8.1f} ms  again {found.again_ms:7.1f} ms  {found.ratio:.3f} x")
    print(f"worst {max(t.ratio for t in timings):.3f} x")
    if out is not None:
        facts = {
            "command": "python -m benchmarks.lengths",
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "first_ms": first,
            "timings": [asdict(t) for t in timings],
        }
        write_whole(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
