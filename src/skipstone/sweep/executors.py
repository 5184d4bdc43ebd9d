"""Who runs a sweep: this process, processes of this machine, or a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from typing import Protocol

import torch

from skipstone.errors import ConfigError, SkipstoneError, nearest
from skipstone.extras import missing
from skipstone.models.load import Model
from skipstone.quoting import shown
from skipstone.sweep.measure import Measured, Unit, WorkerSetup, measure, warm_up, worker_model

# Pools in a row that may break before they finish anything.
_MOST_BROKEN = 3


class Executor(Protocol):
    """Measures units somewhere; gives what was measured of each as soon as it is there."""

    def run(self, model: Model, plan: WorkerSetup, units: Sequence[Unit]) -> Iterator[Measured]:
        """Measure all units, in any order. What has been given is never run again.

        Args:
            model: loaded in this process.
            plan: from which another process loads the same model.
            units: each is run as a whole in one worker.

        Raises:
            SkipstoneError: a unit cannot be decoded, or workers cannot be kept alive.
        """
        ...


def parse_executor(text: str) -> Executor:
    """Parse ``serial``, ``local:N`` or ``ray``.

    Raises:
        ConfigError: it is none of these, or cannot be used here.
    """
    name, _, count = text.partition(":")
    if text == "serial":
        return Serial()
    if text == "ray":
        return Ray()
    if name == "local":
        if not count.isdecimal() or int(count) < 1:
            raise ConfigError(f"executor {shown(text)} needs a number of processes, like local:2")
        return Local(int(count))
    raise ConfigError(
        f"executor {shown(text)} is unknown; {nearest(text, ['serial', 'local:2', 'ray'])}"
    )


@dataclass(frozen=True)
class Serial:
    """One unit after the other in this process."""

    def run(self, model: Model, plan: WorkerSetup, units: Sequence[Unit]) -> Iterator[Measured]:
        """See ``Executor``."""
        if units:
            warm_up(model, plan, units[0])
        for unit in units:
            yield measure(model, plan, unit)


@dataclass(frozen=True)
class Local:
    """Processes of this machine; on GPUs, one for each."""

    workers: int

    def run(self, model: Model, plan: WorkerSetup, units: Sequence[Unit]) -> Iterator[Measured]:
        """See ``Executor``. A worker that dies takes its pool along; what is left is run again."""
        cuda = plan.device == "cuda"
        if cuda and self.workers > torch.cuda.device_count():
            raise ConfigError(
                f"executor local:{self.workers} needs as many GPUs, and there are "
                f"{torch.cuda.device_count()}; each worker takes one"
            )
        left, broken = {unit.first: unit for unit in units}, 0
        while left:
            try:
                for found in self._pool(plan, list(left.values())):
                    del left[found.measurements[0].prompt]
                    broken = 0
                    yield found
            except BrokenProcessPool:
                broken += 1
                if broken == _MOST_BROKEN:
                    raise SkipstoneError(
                        f"{broken} times in a row a worker died before it finished a prompt; its "
                        f"memory may not suffice: use fewer workers, or serial to see its error"
                    ) from None

    def _pool(self, plan: WorkerSetup, units: Sequence[Unit]) -> Iterator[Measured]:
        context = multiprocessing.get_context("spawn")
        # Each worker takes one number, which is its GPU.
        numbers: Queue[int] = context.Queue()
        workers = min(self.workers, len(units))
        for number in range(workers):
            numbers.put(number)
        threads = max(1, plan.threads // workers)
        pool = ProcessPoolExecutor(workers, context, _enter, (numbers, plan.device == "cuda"))
        try:
            waiting = [pool.submit(measure_in_worker, plan, unit, threads) for unit in units]
            for done in as_completed(waiting):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Ray:
    """An existing Ray cluster, or one on this machine; one GPU a worker."""

    def run(self, model: Model, plan: WorkerSetup, units: Sequence[Unit]) -> Iterator[Measured]:
        """See ``Executor``. Ray itself runs the units of a worker that died again."""
        # Ray reports its use over the network unless this is set.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise missing("ray", "executor ray", "ray") from None
        ours = not ray.is_initialized()
        if ours:
            ray.init(logging_level=logging.ERROR, log_to_driver=False)
        try:
            gpus = 1 if plan.device == "cuda" else 0
            remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=-1)(measure_in_worker)
            shared = ray.put(plan)
            waiting = [remote.remote(shared, unit, 1) for unit in units]
            while waiting:
                done, waiting = ray.wait(waiting)
                yield ray.get(done[0])
        finally:
            if ours:
                ray.shutdown()


def measure_in_worker(plan: WorkerSetup, unit: Unit, threads: int) -> Measured:
    """Measure a unit with this process's own model."""
    loads = worker_model.cache_info().misses
    model = worker_model(plan.model, plan.device, plan.dtype, threads)
    if worker_model.cache_info().misses > loads:
        warm_up(model, plan, unit)
    return measure(model, plan, unit)


def _enter(numbers: Queue[int], cuda: bool) -> None:
    """Set up a worker process: its GPU, and its end."""
    if cuda:
        # Read when CUDA is first used, which is later.
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpu(numbers.get())
    # Ctrl-C ends a worker without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_leave, daemon=True).start()


def _leave() -> None:
    """End this worker with its parent, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def visible_gpu(number: int) -> str:
    """The GPU of a worker, among those that this process may use."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return allowed.split(",")[number] if allowed else str(number)
