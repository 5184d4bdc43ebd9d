"""Faults in other people's code, and the diagnosis that is right for each.

A case has B, the faulty code under ``attach``, and A: our engine with the settings that B should
have (``engine``), or the same code without the fault (``code``).

Styles: ``llada`` has a dual cache with unrotated keys and a token skip, ``hf`` a prefix cache and
position ids, ``bare`` no cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from torch import nn

from faults.engine.instead import Fault
from faults.foreign_code import STYLES, Build, Job, Loop, Style, model
from faults.trial import Outcome
from faults.truth import (
    Truth,
)
from skipstone import CosineSkip, Fixed, Threshold
from skipstone.cache import CachePolicy
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import Diagnosis, diagnose
from skipstone.diff import compare
from skipstone.engine import Engine, Settings
from skipstone.foreign.attach.attach import attach
from skipstone.record import MemoryTrace, RunRecord
from skipstone.skip import NoSkip
from skipstone.testing.tiny import EOS, MASK
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side

Against = Literal["engine", "code"]

# What the skip of the style ``llada`` does, as a policy of ours.
THEIR_SKIP = CosineSkip(
    skip_layer_k=3,
    skip_threshold=0.9,
    reference="previous_step",
    keep_committed=False,
    keep_neighbours=False,
)
NUMBERS = ((3, 1, 4, 1, 5, 9, 2), (27, 18, 28, 18, 28, 45, 9, 5, 2), (14, 14, 21, 35, 6))
"""Prompts of the random models."""

JOBS = (
    *(Job(prompt, 16, 8, None, THEIR_SKIP, MASK, EOS) for prompt in NUMBERS),
    *(Job(prompt, 18, 6, 0.5, THEIR_SKIP, MASK, EOS) for prompt in NUMBERS),
)
PARALLEL = JOBS[3:]
STEEP = tuple(replace(job, threshold=0.999) for job in PARALLEL)
"""A threshold that few reach, so that a budget ends with masks."""


@dataclass(frozen=True)
class Stranger:
    """Foreign code with a fault, and the diagnosis that is right for it."""

    name: str
    style: Style
    right: tuple[int, ...]
    """Numbers of the diagnosis; empty if nothing is wrong."""
    truth: Truth
    loop: Loop
    correct: Loop
    """The same code without the fault."""
    cache: CachePolicy
    skips: bool = False
    against: tuple[Against, ...] = ("engine", "code")
    """What A may be: the engine has no run like some code."""
    build: Build | None = None
    """B's model; None for that of the style."""
    fault: Fault = nullcontext
    """Entered around B alone."""
    stated: Callable[[Job], Mapping[str, object]] = field(default=lambda job: dict[str, object]())
    model: str = "random"
    jobs: tuple[Job, ...] = JOBS
    tune: Callable[[Stranger, Job], Job] = field(default=lambda stranger, job: job)
    """Finds settings at which the fault can act."""
    needs_model: tuple[Against, ...] = ()
    """Against these traces alone cannot tell; then no cause is right, and another one is wrong."""

    def settings(self, job: Job) -> Settings:
        """Ours for what the correct code does."""
        return Settings(
            cache=self.cache,
            skip=job.skip if self.skips else NoSkip(),
            unmask=Fixed() if job.threshold is None else Threshold(job.threshold),
            gen_length=job.gen_length,
            block_length=job.block_length,
            eos_stop=False,
        )


@dataclass(frozen=True)
class Encounter:
    """One trial: a stranger at one job against one kind of A."""

    stranger: Stranger
    job: Job
    against: Against
    reference: bool = True
    """Whether our model with the same weights is at hand."""

    @property
    def name(self) -> str:
        """For a table."""
        return f"{self.stranger.style}: {self.stranger.name}, against {self.against}"

    @property
    def first(self) -> bool:
        """Whether this is the first job of its stranger."""
        return self.job == self.stranger.jobs[0]


def encounters(strangers: tuple[Stranger, ...]) -> Iterator[Encounter]:
    """Every trial, with and without a model."""
    for stranger in strangers:
        for job in stranger.jobs:
            for against in stranger.against:
                for reference in (True, False):
                    yield Encounter(stranger, job, against, reference)


@dataclass(frozen=True)
class Recorded:
    """Both runs of a trial, and the means to experiment on them."""

    a: MemoryTrace
    b: MemoryTrace
    runner: ExperimentRunner | None

    def diagnosis(self) -> Diagnosis:
        """Why B is not A."""
        return diagnose(Case(self.a, self.b, self.runner))


def record(trial: Encounter) -> Recorded:
    """Run and record both sides of a trial."""
    stranger, ours = trial.stranger, model(trial.stranger.model)
    job, correct = stranger.tune(stranger, trial.job), STYLES[stranger.style]
    with stranger.fault():
        net = (stranger.build or correct)(ours)
        b = _watched(net, stranger.loop, job, stranger.stated(job))
    engine = None
    if trial.against == "code":
        a = _watched(correct(ours), stranger.correct, job, {})
    else:
        engine = Engine(ours, stranger.settings(job))
        a = decoded(engine, job)
    runner = ExperimentRunner(Side(a, 0, engine), Side(b), ours) if trial.reference else None
    return Recorded(a, b, runner)


def decoded(engine: Engine, job: Job) -> MemoryTrace:
    """A job done by our engine."""
    recorder = Recorder("full")
    engine.generate(job.prompt, observer=recorder)
    return recorder.trace


def _watched(net: nn.Module, loop: Loop, job: Job, stated: Mapping[str, object]) -> MemoryTrace:
    watcher = attach(
        net,
        mask_id=job.mask_id,
        eos_id=job.eos_id,
        level="full",
        stated={"block_length": job.block_length, **stated},
        sanitize=True,
    )
    with watcher:
        loop(net, job)
    return watcher.trace


def run(trial: Encounter) -> Outcome:
    """Record, diagnose and score one trial."""
    runs, stranger, job = record(trial), trial.stranger, trial.job
    a, b = runs.a.records[0], runs.b.records[0]
    blank = Outcome(
        name=trial.name,
        right=stranger.right,
        prompt=" ".join(map(str, job.prompt)),
        settings=f"gen_length={job.gen_length} block_length={job.block_length} "
        f"threshold={job.threshold}",
        alone=not trial.reference,
        control=not stranger.right,
        acted=differ(a, b),
        foreign=True,
    )
    if not (blank.acted or blank.control):
        return blank
    started = time.perf_counter()
    found = runs.diagnosis()
    seconds, cause = round(time.perf_counter() - started, 2), found.cause
    blank = replace(blank, verdict=found.verdict, seconds=seconds)
    step = stranger.truth.first(a, b)
    if cause is None or step is None:
        untold = blank.alone and trial.against in stranger.needs_model
        silent = cause is None and (blank.control or untold)
        return replace(blank, cause_right=silent, step_right=silent, place_right=silent)
    return replace(
        blank,
        number=cause.number,
        proof=str(cause.proof),
        where=str(cause.where),
        truth=f"block {step.block}, step {step.step}",
        evidence=cause.evidence,
        cause_right=cause.number in stranger.right,
        step_right=(cause.where.block, cause.where.step) == (step.block, step.step),
        place_right=stranger.truth.place_right(cause, step),
    )


def differ(a: RunRecord, b: RunRecord) -> bool:
    """Whether two runs differ in decisions, skipped rows or scores."""
    if not compare(a, b).identical:
        return True
    deciding = ([s for s in r.steps if s.masks_before or s.committed] for r in (a, b))
    for x, y in zip(*deciding, strict=True):
        if x.skipped != y.skipped or x.rows.size != y.rows.size:
            return True
        apart = np.abs(x.candidates.confidence - y.candidates.confidence)
        if not (apart < 1e-4).all():
            return True
    return False
