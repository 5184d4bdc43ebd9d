"""Prompts shared out in units, decoded in this process or in a Ray cluster, given in their order.

By tasks of Ray, not by Ray Data: a task whose worker died is run again by Ray itself, answers are
wanted in the order of the prompts as soon as they are there, and what is already answered is known
to the file that they go into. Ray Data would add a block format and a scheduler of its own to
that, and its outputs are in order only where it is told to hold them back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import lru_cache, partial
from typing import TypeVar

from skipstone.clusters import cluster, gpus_for, workers_of
from skipstone.engine import Engine, Handle, Result
from skipstone.engine.prompts import Prompt
from skipstone.errors import SkipstoneError

_DEATHS = 5
"""Workers that may die of a unit before it is given up: it may be what they die of."""
_UNITS_OF_A_WORKER = 4
"""That are under way at a time; so the others need not wait for the first of all."""

T = TypeVar("T")
Answer = Result | SkipstoneError


def answer_here(
    make: Callable[[], Engine], prompts: Sequence[Prompt], first: int, size: int
) -> Generator[Result]:
    """Answer prompts in this process.

    Args:
        make: the engine.
        prompts: all of them.
        first: how many are answered already.
        size: how many are decoded at once.

    Yields:
        The result of each from ``first`` on, in their order.

    Raises:
        SkipstoneError: one cannot be decoded; the message says which. Those before it are there.
    """
    if first == len(prompts):
        return
    engine = make()
    for place, unit in _units(prompts, first, size):
        yield from _results(place, _answered(engine, unit))


def answer_by_ray(
    make: Callable[[], Engine],
    prompts: Sequence[Prompt],
    first: int,
    size: int,
    device: str,
) -> Generator[Result]:
    """Answer prompts in a Ray cluster: that of ``RAY_ADDRESS``, or one of this machine.

    A unit whose worker died is decoded again by another one.

    Args:
        make: an engine, in a worker; it is sent there.
        prompts: all of them.
        first: how many are answered already.
        size: how many a worker decodes at once.
        device: of the model; where it is a GPU, each worker takes one.

    Yields:
        As ``answer_here``.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
        SkipstoneError: as of ``answer_here``, or workers die of a unit.
    """
    if first == len(prompts):
        return
    with cluster("--executor ray", extra="ray"):
        import ray
        from ray import cloudpickle

        gpus = gpus_for(device)
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_DEATHS)(answer_in_worker)
        made = ray.put(cloudpickle.dumps(make))
        most = _UNITS_OF_A_WORKER * workers_of(gpus)
        flying = deque[tuple[int, ray.ObjectRef[list[Answer]]]]()

        def landed() -> Iterator[Result]:
            place, unit = flying.popleft()
            try:
                answers = ray.get(unit)
            except ray.exceptions.WorkerCrashedError:
                raise SkipstoneError(
                    f"{_DEATHS + 1} workers died of prompt {place + 1} and the {size - 1} after "
                    f"it; their memory may not suffice: use a smaller --batch-size"
                ) from None
            yield from _results(place, answers)

        for place, unit in _units(prompts, first, size):
            flying.append((place, remote.remote(made, unit)))
            if len(flying) == most:
                yield from landed()
        while flying:
            yield from landed()


def answer_in_worker(made: bytes, unit: Sequence[Prompt]) -> list[Answer]:
    """Answer a unit with this process's own engine."""
    return _answered(_engine(made), unit)


@lru_cache(maxsize=1)
def _engine(made: bytes) -> Engine:
    """The engine of this worker, which is made once."""
    from ray import cloudpickle

    return cloudpickle.loads(made)()


def _answered(engine: Engine, unit: Sequence[Prompt]) -> list[Answer]:
    """What each prompt gives: a result, or the error that it ends with."""
    handles = [_tried(partial(engine.submit, prompt)) for prompt in unit]
    return [_tried(handle.result) if isinstance(handle, Handle) else handle for handle in handles]


def _tried(call: Callable[[], T]) -> T | SkipstoneError:
    try:
        return call()
    except SkipstoneError as error:
        # Of an error, its text goes over to the process that has asked.
        return SkipstoneError(str(error))


def _units(
    prompts: Sequence[Prompt], first: int, size: int
) -> Iterator[tuple[int, Sequence[Prompt]]]:
    """Prompts that are decoded together, and the place of the first of them."""
    for place in range(first, len(prompts), size):
        yield place, prompts[place : place + size]


def _results(place: int, answers: Sequence[Answer]) -> Iterator[Result]:
    for number, answer in enumerate(answers, start=place + 1):
        if isinstance(answer, SkipstoneError):
            raise SkipstoneError(f"prompt {number}: {answer}")
        yield answer
