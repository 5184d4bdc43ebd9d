"""Timed generations: sides in turn, medians and quartiles, everything repeated once."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from skipstone.bench.stamped import StampedFixed, Stamps
from skipstone.engine import Engine, Result, Settings
from skipstone.engine.fit import keeping_of, sessions_bytes
from skipstone.engine.roofline import Card
from skipstone.memory.kept import kept_bytes
from skipstone.memory.ranges import rounded
from skipstone.memory.store import cell_bytes
from skipstone.models.load import Model
from skipstone.unmask import Fixed

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


@contextmanager
def unadvised() -> Generator[None]:
    """Suppress the note that a skip cannot pay: a bench measures that too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the skip cannot make this run faster")
        yield


class Clock:
    """One engine for all jobs of a cell: they share its K/V store, and no other one is needed."""

    def __init__(self, model: Model, memory: str | None = None) -> None:
        """Time a model with the runner that the engine takes on its device.

        Args:
            model: what decodes.
            memory: for keys and values, as an engine takes it; None for what it takes by itself.
        """
        self._engine = Engine(model, memory=memory)

    def run(self, job: Job) -> list[Result]:
        """Decode once, without a clock."""
        self._engine.settings = job.settings
        with unadvised():
            results = self._engine.generate_batch(job.prompts)
        assert all(r.stats.num_forwards == job.settings.steps for r in results)
        return results

    def seconds(self, job: Job) -> float:
        """Wall-clock time of decoding once."""
        return clocked(lambda: self.run(job), self._engine.model.network.device)

    def steps(self, job: Job) -> list[float]:
        """Seconds of each cached step of a job whose only block is refreshed once."""
        stamps, schedule = Stamps(self._engine.model.network.device), job.settings.unmask
        assert isinstance(schedule, Fixed)
        stamped = job.settings.replace(unmask=StampedFixed(stamps, schedule))
        self.run(replace(job, settings=stamped))
        return stamps.take()


def clocked(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until some work is done, on the device too."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def in_turn(sides: Sequence[Callable[[], Sequence[float]]], turns: int) -> list[Times]:
    """Sample every side in turn, ``turns`` times; then all of it once more.

    Args:
        sides: each gives samples, in seconds.
        turns: of each side in each of the two rounds; in all at least 2 samples.
    """
    for side in sides:
        for _ in range(WARM_UPS):
            side()
    first, again = (_round(sides, turns) for _ in range(2))
    return [_times(a, b) for a, b in zip(first, again, strict=True)]


def tried(model: Model, job: Job) -> tuple[float | None, list[Result]]:
    """Run a job: the most memory at once beyond weights and K/V store, and what it gives.

    The memory is in GB, None on a CPU; all buffers, captured graphs and what a generation allocates
    are in it.
    """
    network = model.network
    if network.device.type != "cuda":
        return None, Clock(model).run(job)
    # By itself an engine takes half of a card, whatever a job needs.
    stored = store_bytes(model, job)
    clock = Clock(model, f"{stored + kept_beside(model, job)}B")
    release()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UPS):
        clock.run(job)
    results = clock.run(job)
    return (torch.cuda.max_memory_allocated() - held - stored) / 1e9, results


def store_bytes(model: Model, job: Job) -> int:
    """What keys and values of a job's requests take, if each ends with a whole block."""
    return _cells(job) * cell_bytes(model.config, model.network.dtype)


def kept_beside(model: Model, job: Job) -> int:
    """What the policies of a job keep of its requests beside these, at most."""
    settings, network = job.settings, model.network
    kept = kept_bytes(keeping_of(network, settings), model.config, network.dtype)
    return _cells(job) * kept + sessions_bytes(network, settings, job.prompts)


def _cells(job: Job) -> int:
    new = job.settings.gen_length + job.settings.whole_block
    return sum(rounded(len(prompt) + new) for prompt in job.prompts)


def release() -> None:
    """Give back what earlier cells held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait(device: torch.device) -> None:
    """Until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _round(sides: Sequence[Callable[[], Sequence[float]]], turns: int) -> list[list[float]]:
    samples: list[list[float]] = [[] for _ in sides]
    for _ in range(turns):
        for kept, side in zip(samples, sides, strict=True):
            kept += [seconds * 1e3 for seconds in side()]
    return samples


def _times(first: Sequence[float], again: Sequence[float]) -> Times:
    low, median, high = statistics.quantiles(first, n=4, method="inclusive")
    return Times(median, low, high, statistics.median(again))
