"""What is timed: a cached step, the same with a skip, a refresh, a whole generation.

A step is timed from one choice of tokens to the next, on the device's clock; a refresh as the
difference between two generations that differ in nothing else, divided by how many more there are.
So everything that comes with it is in it, selection and commit too, and nothing that comes with a
generation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from skipstone.bench.plan import Generation, StepShape
from skipstone.bench.spaced import SpacedSkip
from skipstone.bench.timing import Clock, Job, Prompts, Rig, Times, in_turn, release, tried
from skipstone.cache import DualCache
from skipstone.engine import Settings
from skipstone.engine.roofline import WORTH_IT, Work, bound
from skipstone.models.base import ModelConfig
from skipstone.skip import CosineSkip, NoSkip, SkipPolicy
from skipstone.unmask import Fixed

# Over the steps of a block that commits evenly, half of its rows are still masks.
_STILL_MASKS = 0.5
_REFRESHED_ROWS = 32


@dataclass(frozen=True)
class StepCell:
    """A cached step."""

    batch: int
    context: int
    rows: int
    step_ms: float
    low_ms: float
    high_ms: float
    again_ms: float
    floor_ms: float
    """Least time by the bandwidth and arithmetic measured in this run."""
    times_floor: float
    terabytes_s: float
    """Bytes that a step must read, by its time."""
    teraflops: float
    """Operations that a step must do, by its time."""
    peak_gb: float | None
    """Most memory beyond weights and K/V; None on a CPU."""


@dataclass(frozen=True)
class SkipCell:
    """A cached step with a forced skip, beside the same without."""

    batch: int
    context: int
    rows: int
    skip_layer_k: int
    going: float
    """Share of the rows that went on, as counted."""
    plain_ms: float
    skip_ms: float
    low_ms: float
    high_ms: float
    times_faster: float
    again_times_faster: float
    ideal_times: float
    """What the roofline allows."""
    share_of_ideal: float | None
    """Share of the step that was saved, by that which could be; None where a skip cannot pay."""
    peak_gb: float | None


@dataclass(frozen=True)
class GenerationCell:
    """A whole generation at a forced schedule."""

    generation: str
    batch: int
    forwards: int
    tokens_a_forward: float
    """Of one request."""
    ms: float
    low_ms: float
    high_ms: float
    again_ms: float
    tokens_s: float
    """New tokens of all requests a second."""
    floor_ms: float
    times_floor: float
    peak_gb: float | None


@dataclass(frozen=True)
class RefreshCell:
    """A forward over all positions of one request."""

    positions: int
    refresh_ms: float
    low_ms: float
    high_ms: float
    again_ms: float
    floor_ms: float
    teraflops: float
    share_of_matrix_rate: float


def step(rig: Rig, shape: StepShape, schedule: Fixed | None = None) -> StepCell:
    """Time a cached step; ``schedule`` is the even one if there is none."""
    release()
    job = step_job(rig.model.config, shape, None, schedule)
    (peak, _), clock = tried(rig.model, job), Clock(rig.model)
    (times,) = in_turn([lambda: clock.steps(job)], _turns(rig, job))
    work = _work(shape)
    floor = _floor_ms(rig, work)
    read, computed = _rates(rig, work, times)
    return StepCell(
        batch=shape.batch,
        context=shape.context,
        rows=shape.rows,
        step_ms=times.ms,
        low_ms=times.low_ms,
        high_ms=times.high_ms,
        again_ms=times.again_ms,
        floor_ms=floor,
        times_floor=times.ms / floor,
        terabytes_s=read,
        teraflops=computed,
        peak_gb=peak,
    )


def skips(
    rig: Rig, shape: StepShape, layers: tuple[int, ...], shares: tuple[float, ...]
) -> Iterator[SkipCell]:
    """Time a step without skip and with each of some skips, all in turn."""
    release()
    forced = [SpacedSkip(CosineSkip(skip_layer_k=k), share) for k in layers for share in shares]
    jobs = [step_job(rig.model.config, shape, skip) for skip in (NoSkip(), *forced)]
    peaks, results = zip(*(tried(rig.model, job) for job in jobs), strict=True)
    counted = [1.0 - ran[0].stats.skip_share for ran in results]
    clock = Clock(rig.model)
    sides = [lambda j=j: clock.steps(j) for j in jobs]
    plain, *timed = in_turn(sides, _turns(rig, jobs[0]))
    for skip, times, going, peak in zip(forced, timed, counted[1:], peaks[1:], strict=True):
        work = replace(_work(shape), skip_layer_k=skip.cosine.skip_layer_k, going=skip.going)
        floors = _floor_ms(rig, work.without_skip()), _floor_ms(rig, work)
        ideal, reached = floors[0] / floors[1], plain.ms / times.ms
        saved = (1.0 - 1.0 / reached) / (1.0 - 1.0 / ideal) if ideal >= WORTH_IT else None
        yield SkipCell(
            batch=shape.batch,
            context=shape.context,
            rows=shape.rows,
            skip_layer_k=skip.cosine.skip_layer_k,
            going=going,
            plain_ms=plain.ms,
            skip_ms=times.ms,
            low_ms=times.low_ms,
            high_ms=times.high_ms,
            times_faster=reached,
            again_times_faster=plain.again_ms / times.again_ms,
            ideal_times=ideal,
            share_of_ideal=saved,
            peak_gb=peak,
        )


def generation(rig: Rig, wanted: Generation) -> GenerationCell:
    """Time a whole generation with the dual cache."""
    release()
    job = job_of(rig.model.config, wanted)
    (peak, _), clock = tried(rig.model, job), Clock(rig.model)
    (times,) = in_turn([lambda: [clock.seconds(job)]], rig.repeats)
    floor = generation_floor_ms(rig, wanted)
    return GenerationCell(
        generation=str(wanted),
        batch=wanted.batch,
        forwards=wanted.forwards,
        tokens_a_forward=wanted.new / wanted.forwards,
        ms=times.ms,
        low_ms=times.low_ms,
        high_ms=times.high_ms,
        again_ms=times.again_ms,
        tokens_s=wanted.batch * wanted.new / times.ms * 1e3,
        floor_ms=floor,
        times_floor=times.ms / floor,
        peak_gb=peak,
    )


def refresh(rig: Rig, positions: int) -> RefreshCell:
    """Time a refresh: four of them against one, over as many positions, as many logits each."""
    release()
    rows = max(1, min(_REFRESHED_ROWS, positions // 8))
    jobs = [
        Job(_forced(n * rows, rows, n), prompts(rig.model.config, 1, positions - n * rows))
        for n in (1, 4)
    ]
    clock = Clock(rig.model)

    def one() -> list[float]:
        once, four = map(clock.seconds, jobs)
        return [(four - once) / 3]

    (times,) = in_turn([one], rig.repeats)
    work = Work(1, positions, positions, scored=rows / positions)
    computed = _rates(rig, work, times)[1]
    return RefreshCell(
        positions=positions,
        refresh_ms=times.ms,
        low_ms=times.low_ms,
        high_ms=times.high_ms,
        again_ms=times.again_ms,
        floor_ms=_floor_ms(rig, work),
        teraflops=computed,
        share_of_matrix_rate=computed * 1e12 / rig.card.flops,
    )


def job_of(config: ModelConfig, wanted: Generation) -> Job:
    """What decodes a generation."""
    k, going = wanted.skip_layer_k, wanted.going
    skip = SpacedSkip(CosineSkip(skip_layer_k=k), going) if k else None
    settings = _forced(wanted.new, wanted.block, wanted.forwards, skip)
    return Job(settings, prompts(config, wanted.batch, wanted.prompt))


def generation_floor_ms(rig: Rig, wanted: Generation) -> float:
    """Least time of its refreshes and its cached steps."""
    steps = wanted.forwards // wanted.blocks - 1
    total = 0.0
    for index in range(wanted.blocks):
        opening = _opening(rig.model.config, wanted, index)
        skipped = Work(
            wanted.batch, wanted.block, opening.length, wanted.skip_layer_k, wanted.going
        )
        cached = replace(skipped, scored=_STILL_MASKS)
        total += _floor_ms(rig, opening) + steps * _floor_ms(rig, cached)
    return total


def _opening(config: ModelConfig, wanted: Generation, index: int) -> Work:
    """The first step of a block: a refresh or, where no block sees those after it, what is new."""
    if config.reach.block_size is None:
        length = rows = wanted.length
    else:
        length = wanted.prompt + (index + 1) * wanted.block
        # The block before has got its last tokens since its K/V were written.
        rows = length if index == 0 else 2 * wanted.block
    return Work(wanted.batch, rows, length, scored=wanted.block / rows)


def prompts(config: ModelConfig, batch: int, length: int) -> Prompts:
    """Random ids, other ones for each request, none of them special."""
    top = min(config.vocab_size, config.mask_id, config.eos_id)
    generator = torch.Generator().manual_seed(batch * length)
    ids = torch.randint(0, top, (batch, length), generator=generator)
    return tuple(map(tuple, ids.tolist()))


def _forced(new: int, block: int, steps: int, skip: SkipPolicy | None = None) -> Settings:
    """A schedule that nothing in the values can change."""
    return Settings(
        cache=DualCache(),
        unmask=Fixed(),
        skip=skip or NoSkip(),
        gen_length=new,
        block_length=block,
        steps=steps,
        eos_stop=False,
        # Where rows skip, a step may commit fewer than its share, which must not make the run
        # longer. Where none can, steps are launched ahead, as they are for everyone.
        budget="finish" if skip is None else "stop",
    )


def step_job(
    config: ModelConfig,
    shape: StepShape,
    skip: SkipPolicy | None,
    schedule: Fixed | None = None,
) -> Job:
    """One block: a refresh, then cached steps that commit two tokens each.

    Args:
        config: of the model.
        shape: of the steps.
        skip: forced, or ``NoSkip`` for what is held against one that is; None for a plain run.
        schedule: how steps share the tokens; None: evenly.
    """
    asked = prompts(config, shape.batch, shape.context - shape.rows)
    forced = _forced(shape.rows, shape.rows, shape.rows // 2, skip)
    return Job(forced.replace(unmask=schedule or Fixed()), asked)


def _turns(rig: Rig, job: Job) -> int:
    """Generations that have as many cached steps as samples are wanted."""
    assert job.settings.steps is not None
    return math.ceil(rig.repeats / (job.settings.steps - 1))


def _work(shape: StepShape) -> Work:
    return Work(shape.batch, shape.rows, shape.context, scored=_STILL_MASKS)


def _floor_ms(rig: Rig, work: Work) -> float:
    config = rig.model.config
    return bound(rig.card, config, work, weight_bytes=rig.weight_bytes).seconds * 1e3


def _rates(rig: Rig, work: Work, times: Times) -> tuple[float, float]:
    """TB/s and TFLOP/s that the work needs in this time."""
    # On a card that does nothing but read one byte a second, seconds are bytes.
    reader = replace(rig.card, bandwidth=1.0, flops=math.inf)
    solver = replace(rig.card, bandwidth=math.inf, flops=1.0)
    size, seconds = rig.weight_bytes, times.ms / 1e3
    needed = [bound(c, rig.model.config, work, weight_bytes=size) for c in (reader, solver)]
    read, computed = (n.seconds / seconds / 1e12 for n in needed)
    return read, computed
