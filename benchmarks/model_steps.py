"""A cached step of every model's shape, beside the bytes it must read.

    python -m benchmarks.model_steps --profile -o out.json

One request, one block of 32 positions, random weights, a forced schedule: what ``skipstone bench``
times as a step, for all shapes in one process. A block of Dream has 33 rows, for a row scores the
position to its right; with ``first_alone`` it has 32, as in Fast-dLLM's Dream. Of experts, those
are counted that rows hit which choose at random: random weights make rows alike, and they hit
fewer. ``--profile`` says which kernels a step spends its time in. Needs a GPU.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import product
from pathlib import Path

import click
import torch

from benchmarks.step_profile import Profile, profiled
from skipstone.bench import cells
from skipstone.bench.cells import step_job
from skipstone.bench.plan import StepShape
from skipstone.bench.random_model import random_model
from skipstone.bench.timing import Rig, release
from skipstone.engine.roofline import measure
from skipstone.models.shapes import SHAPES
from skipstone.outputs import write_whole
from skipstone.unmask import Fixed

DEVICE, DTYPE = torch.device("cuda"), torch.bfloat16
ROWS = 32
SCHEDULES = {"even": Fixed(), "first_alone": Fixed(first_alone=True), "entropy": Fixed("entropy")}
CASES = (
    *((name, "even") for name in SHAPES),
    ("dream-7b", "first_alone"),
    ("dream-7b", "entropy"),
)
"""Models, and how their steps share the tokens."""


def shown(rig: Rig, context: int) -> Profile:
    """Where the time of a model's steps goes."""
    work = step_job(rig.model.config, StepShape(1, context, ROWS), None)
    seen = profiled(rig.model, work)
    print(f"  {seen.steps} steps: {seen.span_ms:.2f} ms, busy {seen.busy_ms:.2f} ms")
    for kernel in seen.kernels[:14]:
        print(
            f"  {kernel.ms:8.3f} ms {kernel.launches:5} x {kernel.us_each:8.2f} us  "
            f"{kernel.name[:70]}",
            flush=True,
        )
    return seen


@click.command()
@click.option("--model", "names", multiple=True, default=tuple(SHAPES), show_default=True)
@click.option("--context", "contexts", multiple=True, default=(512, 1280), show_default=True)
@click.option("--repeats", default=60, show_default=True)
@click.option("--profile", is_flag=True, help="Say where the time of a step goes.")
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(
    names: tuple[str, ...],
    contexts: tuple[int, ...],
    repeats: int,
    out: Path | None,
    *,
    profile: bool,
) -> None:
    """Time a cached step of each model."""
    card = measure(DEVICE, DTYPE)
    print(f"{card.name}: {card.bandwidth / 1e12:.2f} TB/s, {card.flops / 1e12:.0f} TFLOP/s")
    found, profiles = list[dict[str, object]](), dict[str, object]()
    for name in names:
        release()
        rig = Rig(random_model(name, SHAPES[name], DEVICE, DTYPE), card, repeats)
        schedules = [schedule for model, schedule in CASES if model == name]
        for schedule, context in product(schedules, contexts):
            cell = cells.step(rig, StepShape(1, context, ROWS), SCHEDULES[schedule])
            found.append({"model": name, "schedule": schedule, **asdict(cell)})
            print(
                f"{name:12} {schedule:12} context {context:5}: {cell.step_ms:6.3f} ms, again "
                f"{cell.again_ms:6.3f}, {cell.times_floor:.3f} x reading ({cell.floor_ms:.3f} ms)",
                flush=True,
            )
        if profile:
            profiles[name] = asdict(shown(rig, contexts[0]))
        del rig
    if out is not None:
        facts = {
            "command": f"python -m benchmarks.model_steps --repeats {repeats}",
            "card": asdict(card),
            "torch": torch.__version__,
            "steps": found,
            **({"profiles": profiles} if profiles else {}),
        }
        write_whole(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
