"""The first generation of a process, at LLaDA-8B's shape: what it takes beyond the ones after it.

    TRITON_CACHE_DIR=$(mktemp -d) python -m benchmarks.first_generation   # kernels are compiled
    python -m benchmarks.first_generation                                 # they are on the disk

Weights are random and made in half a second. What kernels need is fetched in the background while
weights are read, for which a checkpoint takes longer: ``--pause`` waits as long as that would.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import click
import torch

from skipstone import Engine, Fixed, Settings
from skipstone.bench.random_model import random_model
from skipstone.models.shapes import LLADA_8B
from skipstone.outputs import write_whole

PROMPT = list(range(5, 216))


def timed(engine: Engine) -> float:
    """Seconds of one generation."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    engine.generate(PROMPT)
    torch.cuda.synchronize()
    return time.perf_counter() - started


@click.command()
@click.option("--pause", default=0.0, help="Seconds between loading and the first generation.")
@click.option("--repeats", default=5, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(pause: float, repeats: int, out: Path | None) -> None:
    """Time the first generation, and those after it."""
    started = time.perf_counter()
    model = random_model("llada-8b", LLADA_8B, torch.device("cuda"), torch.bfloat16)
    torch.cuda.synchronize()
    load_s = time.perf_counter() - started
    time.sleep(pause)
    engine = Engine(model, Settings(unmask=Fixed(), gen_length=128, steps=32, eos_stop=False))
    first_s = timed(engine)
    again_s = statistics.median(timed(engine) for _ in range(repeats))
    print(f"load {load_s:.2f} s, first generation {first_s:.3f} s, then {again_s:.3f} s")
    if out is not None:
        facts = {
            "command": f"python -m benchmarks.first_generation --pause {pause:g}",
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "load_s": load_s,
            "first_s": first_s,
            "again_s": again_s,
        }
        write_whole(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
