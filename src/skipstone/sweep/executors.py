"""Who runs a sweep: this process, processes of this machine, or a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from queue import SimpleQueue
from typing import Protocol

import torch

from skipstone.clusters import cluster
from skipstone.errors import ConfigError, SkipstoneError, nearest
from skipstone.models.load import Model
from skipstone.quoting import shown
from skipstone.sweep.units import Unit, WorkerSetup
from skipstone.sweep.worker import Found, Worker, run_in_worker

# Pools in a row that may break before they finish anything.
_MOST_BROKEN = 3


Units = Callable[[int], Sequence[Unit]]
"""What there is to run, by the number of workers that it is shared out among."""


class Executor(Protocol):
    """Runs units somewhere; gives what was found in each as soon as it is there."""

    def run(self, model: Model, plan: WorkerSetup, units: Units) -> Iterator[Found]:
        """Run all units and what follows from them, in any order. What was given is not run again.

        Args:
            model: loaded in this process.
            plan: from which another process loads the same model.
            units: each is run as a whole in one worker; ``Found.then`` are further ones.

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

    def run(self, model: Model, plan: WorkerSetup, units: Units) -> Iterator[Found]:
        """See ``Executor``. What follows from a unit is run next."""
        left = deque(units(1))
        worker = Worker(model, plan) if left else None
        while worker and left:
            found = worker.run(left.popleft())
            left.extendleft(reversed(found.then))
            yield found


@dataclass(frozen=True)
class Local:
    """Processes of this machine; on GPUs, one for each."""

    workers: int

    def run(self, model: Model, plan: WorkerSetup, units: Units) -> Iterator[Found]:
        """See ``Executor``. A worker that dies takes its pool along; what is left is run again."""
        cuda = plan.device == "cuda"
        if cuda and self.workers > torch.cuda.device_count():
            raise ConfigError(
                f"executor local:{self.workers} needs as many GPUs, and there are "
                f"{torch.cuda.device_count()}; each worker takes one"
            )
        left, broken = dict.fromkeys(units(self.workers)), 0
        while left:
            try:
                for unit, found in self._pool(plan, list(left)):
                    del left[unit]
                    left |= dict.fromkeys(found.then)
                    broken = 0
                    yield found
            except BrokenProcessPool:
                broken += 1
                if broken == _MOST_BROKEN:
                    raise SkipstoneError(
                        f"{broken} times in a row a worker died before it finished a prompt; its "
                        f"memory may not suffice: use fewer workers, or serial to see its error"
                    ) from None

    def _pool(self, plan: WorkerSetup, units: Sequence[Unit]) -> Iterator[tuple[Unit, Found]]:
        context = multiprocessing.get_context("spawn")
        # Each worker takes one number, which is its GPU.
        numbers: Queue[int] = context.Queue()
        for number in range(self.workers):
            numbers.put(number)
        threads = max(1, plan.threads // self.workers)
        pool = ProcessPoolExecutor(self.workers, context, _enter, (numbers, plan.device == "cuda"))
        waiting, done = dict[Future[Found], Unit](), SimpleQueue[Future[Found]]()

        def submit(units: Iterable[Unit]) -> None:
            for unit in units:
                waiting[future := pool.submit(run_in_worker, plan, unit, threads)] = unit
                future.add_done_callback(done.put)

        try:
            submit(units)
            while waiting:
                found = (future := done.get()).result()
                submit(found.then)
                yield waiting.pop(future), found
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Ray:
    """An existing Ray cluster, or one on this machine; one GPU a worker."""

    def run(self, model: Model, plan: WorkerSetup, units: Units) -> Iterator[Found]:
        """See ``Executor``. Ray itself runs the units of a worker that died again."""
        with cluster("executor ray", extra="ray"):
            import ray

            gpus = 1 if plan.device == "cuda" else 0
            remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=-1)(run_in_worker)
            shared = ray.put(plan)
            workers = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1))
            waiting = [remote.remote(shared, unit, 1) for unit in units(workers)]
            while waiting:
                done, waiting = ray.wait(waiting)
                found: Found = ray.get(done[0])
                waiting += [remote.remote(shared, unit, 1) for unit in found.then]
                yield found


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
