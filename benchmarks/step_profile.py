"""Where does the time of a step go? Every kernel of some cached steps, and the gaps between them.

    python -m benchmarks.step_profile --batch 32 --context 512 --skip 8:0.25 -o out.json

One block of 32 rows a request is decoded at a forced schedule, as ``skipstone bench`` does, by a
model of LLaDA-8B's shape. Needs a GPU. A profiler makes gaps longer than they are: how long a step
takes, ``skipstone bench`` tells.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from skipstone import CosineSkip, Model
from skipstone.bench.cells import step_job
from skipstone.bench.plan import StepShape
from skipstone.bench.random_model import random_model
from skipstone.bench.spaced import SpacedSkip
from skipstone.bench.timing import Clock, Job
from skipstone.models.shapes import LLADA_8B
from skipstone.outputs import write_whole
from skipstone.skip import SkipPolicy

ROWS = 32
LONG_US = 20.0
"""A gap that is longer is not just the next launch."""


@dataclass(frozen=True)
class Kernel:
    """All launches of one kernel."""

    name: str
    launches: int
    ms: float
    """Of all launches together."""
    us_each: float


@dataclass(frozen=True)
class Profile:
    """One generation: a refresh and the cached steps after it."""

    steps: int
    span_ms: float
    busy_ms: float
    long_gaps: int
    long_gaps_ms: float
    short_gaps_ms: float
    kernels: list[Kernel]
    """Those that take most first."""


def profiled(model: Model, work: Job) -> Profile:
    """Profile one generation, after two that warm up and capture."""
    clock = Clock(model)
    for _ in range(2):
        clock.run(work)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        clock.run(work)
        torch.cuda.synchronize()
    events = [e for e in seen.events() or () if e.device_type == DeviceType.CUDA]
    spans = sorted((event.time_range.start, event.time_range.end) for event in events)
    gaps, busy, end = list[float](), 0.0, spans[0][0]
    for start, stop in spans:
        gaps += [start - end] if start > end else []
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    longer = [gap for gap in gaps if gap > LONG_US]
    launches, spent = Counter[str](), Counter[str]()
    for event in events:
        launches[event.name] += 1
        spent[event.name] += event.time_range.elapsed_us()
    return Profile(
        steps=work.settings.steps or 0,
        span_ms=(end - spans[0][0]) / 1e3,
        busy_ms=busy / 1e3,
        long_gaps=len(longer),
        long_gaps_ms=sum(longer) / 1e3,
        short_gaps_ms=(sum(gaps) - sum(longer)) / 1e3,
        kernels=[
            Kernel(name, launches[name], us / 1e3, us / launches[name])
            for name, us in spent.most_common()
        ],
    )


def parse_skip(text: str | None) -> SkipPolicy | None:
    """``K:SHARE``, a forced skip before layer K after which that share of the rows goes on."""
    if text is None:
        return None
    layer, _, share = text.partition(":")
    return SpacedSkip(CosineSkip(skip_layer_k=int(layer)), float(share))


@click.command()
@click.option("--batch", default=1, show_default=True)
@click.option("--context", default=512, show_default=True)
@click.option("--skip", metavar="K:SHARE", help="A forced skip, like 8:0.25.")
@click.option("--show", default=30, show_default=True, help="Kernels in the table.")
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(batch: int, context: int, skip: str | None, show: int, out: Path | None) -> None:
    """Profile cached steps and print what takes most."""
    if not torch.cuda.is_available():
        raise click.UsageError("there is no GPU here; a profile of kernels needs one")
    model = random_model("llada-8b", LLADA_8B, torch.device("cuda"), torch.bfloat16)
    found = profiled(
        model, step_job(model.config, StepShape(batch, context, ROWS), parse_skip(skip))
    )
    print(
        f"{found.steps} steps: {found.span_ms:.1f} ms, busy {found.busy_ms:.1f} ms; "
        f"{found.long_gaps} gaps over {LONG_US:.0f} us take {found.long_gaps_ms:.2f} ms, "
        f"shorter ones {found.short_gaps_ms:.2f} ms"
    )
    for kernel in found.kernels[:show]:
        print(
            f"{kernel.ms:9.3f} ms {kernel.launches:6} x {kernel.us_each:8.2f} us  "
            f"{kernel.name[:100]}"
        )
    if out is not None:
        facts = {
            "command": f"python -m benchmarks.step_profile --batch {batch} --context {context}"
            + (f" --skip {skip}" if skip else ""),
            "machine": torch.cuda.get_device_name(),
            "torch": torch.__version__,
        }
        write_whole(out, json.dumps({**facts, **asdict(found)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
