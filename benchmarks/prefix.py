"""What it brings that prompts which begin alike share keys and values, at SDAR's shape.

    python -m benchmarks.prefix --device cpu -o out.json

Weights are random and the schedule is forced. A system prompt is followed by a question that no
request had before: first alone, where an earlier request has left the keys and values of the system
prompt, then in a batch in which nobody has them yet. The other side is the same with
``reuse_prefix=False``; both are timed in turn, and the tokens are checked to be the same.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import torch

from skipstone import Engine, Fixed, Model, Settings
from skipstone.bench.random_model import random_model
from skipstone.models.base import ModelConfig
from skipstone.models.shapes import SDAR_8B
from skipstone.outputs import write_whole

QUESTION = 24
"""Tokens of a prompt's own."""
SETTINGS = Settings(unmask=Fixed(), gen_length=64, steps=32, eos_stop=False)
# As many layers and numbers as a CPU can do in seconds; the way of the data is the same.
SMALL = replace(
    SDAR_8B,
    width=256,
    num_layers=6,
    num_heads=8,
    num_kv_heads=2,
    head_width=32,
    mlp_width=768,
    vocab_size=4096,
    mask_id=4095,
    eos_id=4094,
)
Side = Callable[[int], tuple[float, int, list[tuple[int, ...]]]]
"""Takes which repeat it is; gives seconds, rows computed, and the tokens of each request."""


@dataclass(frozen=True)
class Sharing:
    """One system prompt, with and without."""

    what: str
    system_prompt: int
    """Its positions."""
    requests: int
    rows_without: int
    """Rows that entered layer 1, over all steps of all requests."""
    rows_with: int
    seconds_without: float
    """Median of the repeats."""
    spread_without: tuple[float, float]
    """The least and the most."""
    seconds_with: float
    spread_with: tuple[float, float]
    times: float
    """Median over the pairs of without by with."""
    quartiles: tuple[float, float]


class Prompts:
    """Prompts with the same beginning and questions of their own."""

    def __init__(self, config: ModelConfig, length: int, *, seed: int) -> None:
        self._dice, self._vocab = random.Random(seed), config.vocab_size // 2
        self._system = self._ids(length)

    def __call__(self, count: int) -> list[list[int]]:
        """Prompts that nobody had before."""
        return [[*self._system, *self._ids(QUESTION)] for _ in range(count)]

    def _ids(self, count: int) -> list[int]:
        return [self._dice.randrange(self._vocab) for _ in range(count)]


def first_commits(model: Model, prompts: Sequence[list[int]], *, reuse: bool) -> Side:
    """Time until the first token is decided, one request after the other."""
    engine = Engine(model, SETTINGS, reuse_prefix=reuse)
    engine.generate(prompts[0])

    def side(repeat: int) -> tuple[float, int, list[tuple[int, ...]]]:
        handle = engine.submit(prompts[1 + repeat])
        started = time.perf_counter()
        next(iter(handle))
        seconds = time.perf_counter() - started
        result = handle.result()
        return seconds, sum(step.rows for step in result.stats.steps), [result.tokens]

    return side


def batches(model: Model, prompts: Sequence[list[int]], size: int, *, reuse: bool) -> Side:
    """Time of a whole batch, in an engine that has seen none of it."""
    kept = Engine(model, SETTINGS, reuse_prefix=reuse)

    def side(repeat: int) -> tuple[float, int, list[tuple[int, ...]]]:
        # On a GPU a new engine would capture its graphs again; what it holds is of other prompts.
        engine = kept if model.network.device.type == "cuda" else Engine(model, kept.settings)
        asked = prompts[size * repeat : size * (repeat + 1)]
        started = time.perf_counter()
        results = engine.generate_batch(asked)
        seconds = time.perf_counter() - started
        rows = sum(step.rows for result in results for step in result.stats.steps)
        return seconds, rows, [result.tokens for result in results]

    return side


def compare(what: str, length: int, sides: tuple[Side, Side], repeats: int, count: int) -> Sharing:
    """Time both in turn; which goes first alternates."""
    times = list[float](), list[float]()
    rows = [0, 0]
    for repeat in range(-1, repeats):
        found = dict[int, list[tuple[int, ...]]]()
        for which in (0, 1) if repeat % 2 else (1, 0):
            seconds, rows[which], found[which] = sides[which](repeat + 1)
            if repeat >= 0:
                times[which].append(seconds)
        if found[0] != found[1]:
            raise click.ClickException(f"{what}, {length} positions: the tokens are others")
    low, middle, high = statistics.quantiles((a / b for a, b in zip(*times, strict=True)), n=4)
    without, with_ = times
    return Sharing(
        what=what,
        system_prompt=length,
        requests=count,
        rows_without=rows[0],
        rows_with=rows[1],
        seconds_without=statistics.median(without),
        spread_without=(min(without), max(without)),
        seconds_with=statistics.median(with_),
        spread_with=(min(with_), max(with_)),
        times=middle,
        quartiles=(low, high),
    )


def measured(model: Model, length: int, size: int, repeats: int) -> list[Sharing]:
    """A system prompt alone and in a batch."""
    one = Prompts(model.config, length, seed=0)(repeats + 2)
    alone = first_commits(model, one, reuse=False), first_commits(model, one, reuse=True)
    # Each batch has a system prompt of its own, so that nobody holds it yet.
    seeds = range(1, repeats + 2)
    many = [ids for seed in seeds for ids in Prompts(model.config, length, seed=seed)(size)]
    together = batches(model, many, size, reuse=False), batches(model, many, size, reuse=True)
    return [
        compare("first commit", length, alone, repeats, 1),
        compare("whole batch", length, together, repeats, size),
    ]


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--shape", type=click.Choice(["small", "sdar-8b"]), default="small")
@click.option("--batch-size", default=16, show_default=True)
@click.option("--repeats", default=9, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(device: str, shape: str, batch_size: int, repeats: int, out: Path | None) -> None:
    """Measure system prompts of 512 and 2,048 tokens, print, and write if asked."""
    before, where = os.getloadavg()[0], torch.device(device)
    config = SMALL if shape == "small" else SDAR_8B
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    model = random_model(shape, config, where, dtype)
    found = [s for n in (512, 2048) for s in measured(model, n, batch_size, repeats)]
    for one in found:
        print(
            f"{one.what}, {one.system_prompt}: {one.seconds_without:.4f} s without, "
            f"{one.seconds_with:.4f} s with: {one.times:.2f} times"
        )
    if out is not None:
        cuda = where.type == "cuda"
        facts = {
            "command": f"python -m benchmarks.prefix --device {device} --shape {shape} "
            f"--batch-size {batch_size} --repeats {repeats}",
            "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
            "threads": torch.get_num_threads(),
            "load_before": before,
            "torch": torch.__version__,
            "dtype": str(dtype).removeprefix("torch."),
            "shape": f"{config.num_layers} layers, width {config.width}, blocks of 4",
            "sharing": [asdict(one) for one in found],
        }
        write_whole(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
