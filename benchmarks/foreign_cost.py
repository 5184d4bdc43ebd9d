"""What does it cost to record a loop that is not ours? Fast-dLLM's own model and loop, in turn.

``python benchmarks/foreign_cost.py --peer fast-dllm=PATH`` takes a checkout of NVlabs/Fast-dLLM,
makes its LLaDAModelLM with random weights and runs its dual-cache loop plain, and under ``attach``
at each level. Every round runs every side once, so that the machine's moods fall on all of them.
The first run of each side stands apart: there, code is compiled. How often Dynamo compiled is
counted, since none of it may be ours.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from torch._dynamo.utils import counters

from skipstone import attach
from skipstone.bench.peers.fast_dllm import FastDLLM
from skipstone.bench.peers.table import parse_peer
from skipstone.bench.plan import Generation
from skipstone.bench.random_model import random_model
from skipstone.models.load import Model
from skipstone.models.shapes import LLADA_8B
from skipstone.outputs import write_whole

_SHAPES = {
    "8b": LLADA_8B,
    "narrow": replace(LLADA_8B, width=64, num_heads=2, num_kv_heads=2, mlp_width=128, num_layers=4),
}
_CACHE = "dual cache"


@dataclass(frozen=True)
class Cost:
    """One way of running the loop."""

    side: str
    runs: int
    first_s: float
    """The first run, with what is compiled in it."""
    compiled: int
    """Graphs that Dynamo compiled in the first run."""
    compiled_later: int
    """And in all runs after it."""
    median_s: float
    low_s: float
    high_s: float
    times_plain: float
    """Median over the rounds of its time by that of the plain run of the same round."""


Recording = Callable[[], AbstractContextManager[object]]


def sides(peer: FastDLLM, mask_id: int, names: tuple[str, ...]) -> dict[str, Recording]:
    """Ways to run the loop, by name; the plain one first."""
    net = peer.network

    def attached(**how: object) -> Recording:
        return lambda: attach(net, mask_id=mask_id, **how)  # pyrefly: ignore[bad-argument-type]

    every: dict[str, Recording] = {
        "plain": nullcontext,
        "decisions": attached(),
        "full": attached(level="full"),
        "sanitize": attached(sanitize=True),
    }
    return {name: every[name] for name in every if name == "plain" or name in names}


def measure(
    peer: FastDLLM, model: Model, wanted: Generation, ways: Mapping[str, Recording], rounds: int
) -> list[Cost]:
    """Run every side once a round, and once before for what is compiled."""

    def once(way: Recording) -> tuple[float, int]:
        before = counters["stats"]["unique_graphs"]
        _wait(model)
        began = time.perf_counter()
        with way():
            peer.decode(_CACHE, model, wanted)
            _wait(model)
        return time.perf_counter() - began, counters["stats"]["unique_graphs"] - before

    first = {name: once(way) for name, way in ways.items()}
    later = [{name: once(way) for name, way in ways.items()} for _ in range(rounds)]
    costs = list[Cost]()
    for name in ways:
        times = [run[name][0] for run in later]
        costs.append(
            Cost(
                side=name,
                runs=rounds,
                first_s=first[name][0],
                compiled=first[name][1],
                compiled_later=sum(run[name][1] for run in later),
                median_s=statistics.median(times),
                low_s=min(times),
                high_s=max(times),
                times_plain=statistics.median(run[name][0] / run["plain"][0] for run in later),
            )
        )
    return costs


def _wait(model: Model) -> None:
    if model.network.device.type == "cuda":
        torch.cuda.synchronize()


def _profiled(peer: FastDLLM, model: Model, wanted: Generation, name: str, way: Recording) -> None:
    """Where the host's time goes on one side."""
    profile = cProfile.Profile()
    with profile, way():
        peer.decode(_CACHE, model, wanted)
        _wait(model)
    print(f"--- {name}")
    pstats.Stats(profile).sort_stats("tottime").print_stats(14)


@click.command()
@click.option("--peer", "peer_text", required=True, help="fast-dllm=PATH, a checkout of its code.")
@click.option("--shape", type=click.Choice(list(_SHAPES)), default="8b")
@click.option("--device", default="cpu")
@click.option("--dtype", default="bfloat16")
@click.option("--prompt", default=19)
@click.option("--new", default=128)
@click.option("--block", default=32)
@click.option("--forwards", default=32)
@click.option("--rounds", default=5)
@click.option("--side", "names", multiple=True, default=("decisions", "full", "sanitize"))
@click.option("--profile", is_flag=True, help="Also say where the host's time goes.")
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    peer_text: str,
    shape: str,
    device: str,
    dtype: str,
    prompt: int,
    new: int,
    block: int,
    forwards: int,
    rounds: int,
    names: tuple[str, ...],
    profile: bool,
    output: Path | None,
) -> None:
    """Measure and print the table; write it as JSON too if asked."""
    if device == "cpu":
        torch.set_num_threads(1)
    place, kind = torch.device(device), getattr(torch, dtype)
    model = random_model(f"random-{shape}", _SHAPES[shape], place, kind)
    peer = parse_peer(peer_text).build(model)
    if not isinstance(peer, FastDLLM):
        raise click.UsageError("--peer must be fast-dllm=PATH")
    wanted = Generation(prompt=prompt, new=new, block=block, forwards=forwards)
    ways = sides(peer, model.config.mask_id, names)
    costs = measure(peer, model, wanted, ways, rounds)
    if profile:
        for name, way in ways.items():
            _profiled(peer, model, wanted, name, way)
    print(
        f"{'side':10} {'first s':>8} {'compiled':>9} {'median s':>9} {'spread':>15} {'x plain':>8}"
    )
    for cost in costs:
        spread = f"{cost.low_s:.3f} to {cost.high_s:.3f}"
        print(
            f"{cost.side:10} {cost.first_s:8.2f} {cost.compiled:5}+{cost.compiled_later:<3} "
            f"{cost.median_s:9.3f} {spread:>15} {cost.times_plain:8.2f}"
        )
    if output is not None:
        value = {
            "command": f"foreign_cost.py --shape {shape} --dtype {dtype} --prompt {prompt} "
            f"--new {new} --block {block} --forwards {forwards} --rounds {rounds}",
            "machine": torch.cuda.get_device_name() if device == "cuda" else "cpu, one thread",
            "torch": torch.__version__,
            "sides": [vars(cost) for cost in costs],
        }
        write_whole(output, json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
