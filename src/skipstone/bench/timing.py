"""Timed generations: sides in turn, medians and quartiles, everything repeated once."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from skipstone.engine import Engine, Result, Settings
from skipstone.engine.roofline import Card
from skipstone.models.load import Model

Prompts = tuple[tuple[int, ...], ...]
WARM_UPS = 2


@dataclass(frozen=True, eq=False)
class Rig:
    """What is measured, and on what."""

    model: Model
    card: Card
    """What the device reads and computes, measured in this run."""
    repeats: int
    """Samples of each side; all of it is done twice."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.network.device

    @property
    def weight_bytes(self) -> int:
        """Bytes of one number."""
        return self.model.network.dtype.itemsize


@dataclass(frozen=True)
class Job:
    """Generations that make exactly ``settings.steps`` forwards."""

    settings: Settings
    prompts: Prompts


@dataclass(frozen=True)
class Times:
    """Milliseconds of one side of a comparison."""

    ms: float
    """Median."""
    low_ms: float
    """First quartile."""
    high_ms: float
    """Third quartile."""
    again_ms: float
    """Median of the repetition."""


class Clock:
    """One engine for all jobs of a cell: they share its K/V store, and no other one is needed."""

    def __init__(self, model: Model) -> None:
        """Time a model with the runner that the engine takes on its device."""
        self._engine = Engine(model)

    def run(self, job: Job) -> list[Result]:
        """Decode once, without a clock."""
        self._engine.settings = job.settings
        with warnings.catch_warnings():
            # A bench also measures where a skip cannot pay.
            warnings.filterwarnings("ignore", message="the skip cannot make this run faster")
            results = self._engine.generate_batch(job.prompts)
        assert all(r.stats.num_forwards == job.settings.steps for r in results)
        return results

    def seconds(self, job: Job) -> float:
        """Wall-clock time of decoding once."""
        return clocked(lambda: self.run(job), self._engine.model.network.device)


def clocked(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until some work is done, on the device too."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def in_turn(sides: Sequence[Callable[[], float]], repeats: int) -> list[Times]:
    """Sample every side in turn, ``repeats`` times; then all of it once more.

    Args:
        sides: each gives one sample, in seconds.
        repeats: samples of each side in each of the two rounds; at least 2.
    """
    for side in sides:
        for _ in range(WARM_UPS):
            side()
    first, again = (_round(sides, repeats) for _ in range(2))
    return [_times(a, b) for a, b in zip(first, again, strict=True)]


def scaled(times: Times, factor: float) -> Times:
    """The same times in another unit."""
    return Times(*(value * factor for value in vars(times).values()))


def peak_gb(model: Model, job: Job) -> float | None:
    """Most memory at once beyond the weights and the K/V store, in GB; None on a CPU.

    All buffers, captured graphs and what a generation allocates are in it.
    """
    network = model.network
    if network.device.type != "cuda":
        return None
    release()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    clock = Clock(model)
    for _ in range(WARM_UPS + 1):
        clock.run(job)
    config = network.config
    length = max(map(len, job.prompts)) + job.settings.gen_length
    kv = config.num_kv_heads * config.head_width * network.dtype.itemsize
    stored = 2 * config.num_layers * len(job.prompts) * length * kv
    return (torch.cuda.max_memory_allocated() - held - stored) / 1e9


def release() -> None:
    """Give back what earlier cells held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait(device: torch.device) -> None:
    """Until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _round(sides: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    samples: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for kept, side in zip(samples, sides, strict=True):
            kept.append(side() * 1e3)
    return samples


def _times(first: Sequence[float], again: Sequence[float]) -> Times:
    low, median, high = statistics.quantiles(first, n=4, method="inclusive")
    return Times(median, low, high, statistics.median(again))
