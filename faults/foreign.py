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
from functools import partial
from typing import Literal

import numpy as np
from torch import nn

from faults import foreign_cache as cached
from faults import foreign_code as code
from faults.engine.instead import Fault
from faults.foreign_code import STYLES, Build, Job, Loop, Style, model
from faults.specimen import PROMPTS
from faults.trial import Outcome
from faults.truth import (
    ALWAYS,
    CACHED,
    SECOND_BLOCK,
    Truth,
    anywhere,
    candidates,
    from_forward,
    in_block,
    masks_stay,
    near_block,
    outside_block,
    parted,
    skips_part,
)
from skipstone import CosineSkip, DualCache, Fixed, NoCache, PrefixCache, Threshold
from skipstone.cache import CachePolicy
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import Diagnosis, diagnose
from skipstone.diff import compare
from skipstone.engine import Engine, Settings
from skipstone.foreign.attach.attach import attach
from skipstone.record import MemoryTrace, RunRecord, StepRecord
from skipstone.skip import NoSkip
from skipstone.tracing import Recorder
from skipstone.tracing.experiments import Laboratory, Subject
from tests.conftest import EOS, MASK

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


def pebble_jobs() -> tuple[Job, ...]:
    """The same for the embedded model, in both settings."""
    pebble = model("pebble")
    skip = replace(THEIR_SKIP, skip_layer_k=18, skip_threshold=0.999)
    shapes = ((32, 16, None), (24, 8, 0.9))
    ids = pebble.config.mask_id, pebble.config.eos_id
    return tuple(
        Job(tuple(pebble.text.encode(prompt)), *shape, skip, *ids)
        for shape in shapes
        for prompt in PROMPTS
    )


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
    needs_model: bool = False
    """Whether traces alone cannot tell; then no cause is right, and another one is wrong."""

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
    lab: Laboratory | None

    def diagnosis(self) -> Diagnosis:
        """Why B is not A."""
        return diagnose(Case(self.a, self.b, self.lab))


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
        a = _decoded(engine, job)
    lab = Laboratory(Subject(a, 0, engine), Subject(b), ours) if trial.reference else None
    return Recorded(a, b, lab)


def _decoded(engine: Engine, job: Job) -> MemoryTrace:
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
        silent = cause is None and (blank.control or (stranger.needs_model and blank.alone))
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


def between(stranger: Stranger, job: Job) -> Job:
    """A skip threshold between what bfloat16 and float32 see of one row in the first judged step.

    Up to there nothing can have skipped, so that its similarities do not depend on the threshold.
    """
    ours, means = model(stranger.model), list[np.ndarray]()
    for dtype in ("float32", "bfloat16"):
        tuned = replace(job, skip=replace(job.skip, similarity_dtype=dtype))
        steps = _decoded(Engine(ours, stranger.settings(tuned)), job).records[0].steps
        means.append(next(s.judgements.mean for s in steps if s.judgements is not None))
    best = int(np.abs(means[0] - means[1]).argmax())
    middle = float(means[0][best] + means[1][best]) / 2
    return replace(job, skip=replace(job.skip, skip_threshold=middle))


# --- the table ------------------------------------------------------------------------------------


def _last(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The last step of B."""
    return b.steps[-1]


NOTHING = Truth(ALWAYS)
PARTED = Truth(parted, where=candidates)
CACHES: Mapping[Style, CachePolicy] = {
    "llada": DualCache(),
    "hf": PrefixCache(),
    "bare": NoCache(),
}
LOOPS: Mapping[Style, Loop] = {"llada": code.dual, "hf": code.prefix, "bare": code.plain}


def _skipping(name: str, right: tuple[int, ...], truth: Truth) -> Stranger:
    """The style that skips."""
    return Stranger(
        name, "llada", right, truth, code.skipping, code.skipping, DualCache(), skips=True
    )


def with_its_cache(style: Style, name: str, right: tuple[int, ...], truth: Truth) -> Stranger:
    """A style with the cache it has."""
    return Stranger(name, style, right, truth, LOOPS[style], LOOPS[style], CACHES[style])


def without_cache(style: Style, name: str, right: tuple[int, ...], truth: Truth) -> Stranger:
    """A style that computes all positions in every step."""
    return Stranger(name, style, right, truth, code.plain, code.plain, NoCache())


CORRECT = (
    *(with_its_cache(style, "correct", (), NOTHING) for style in STYLES),
    *(without_cache(style, "correct, no cache", (), NOTHING) for style in ("llada", "hf")),
    _skipping("correct skip", (), NOTHING),
)

OF_THE_SKIP = (
    replace(
        _skipping("misaligned rows", (1,), Truth(CACHED, where=in_block)), build=code.misaligned
    ),
    replace(
        _skipping("similarity in bfloat16", (2,), Truth(CACHED)), build=code.coarse, tune=between
    ),
    replace(
        _skipping("stated skip threshold differs", (23,), Truth(skips_part, where=in_block)),
        loop=code.lower_skip_threshold,
        stated=lambda job: {"skip_threshold": job.skip.skip_threshold},
    ),
    replace(
        _skipping("one cache for two steps", (25,), Truth(from_forward(2))),
        loop=code.step_twice,
        correct=partial(code.step_twice, separate=True),
        against=("code",),
    ),
)

OF_THE_CACHE = (
    replace(
        with_its_cache(
            "llada", "replace_position off by one", (13,), Truth(CACHED, (1,), near_block)
        ),
        loop=partial(code.dual, fault="replace_off_by_one"),
    ),
    replace(
        with_its_cache("llada", "no refresh", (11,), Truth(SECOND_BLOCK, (1,), outside_block)),
        loop=partial(code.dual, fault="no_refresh"),
    ),
    replace(
        with_its_cache("hf", "no refresh", (11,), Truth(SECOND_BLOCK, (1,), outside_block)),
        loop=code.never_refreshed,
    ),
    replace(
        with_its_cache("hf", "position ids off by one", (14,), Truth(CACHED, (1,), anywhere)),
        loop=partial(code.prefix, shift=-1),
    ),
)

OF_THE_ROWS = (
    replace(
        with_its_cache("llada", "queries turned short", (14,), Truth(CACHED, (1,), in_block)),
        needs_model=True,
        fault=cached.queries_turned_short,
    ),
    replace(
        with_its_cache("hf", "rows turned short", (14,), Truth(CACHED, (1,), anywhere)),
        needs_model=True,
        fault=cached.rows_turned_short,
    ),
    replace(
        with_its_cache("bare", "queries turned short", (14,), Truth(ALWAYS, (1,), anywhere)),
        needs_model=True,
        fault=cached.queries_turned_in_every_step,
    ),
    replace(
        with_its_cache("llada", "values not written", (11,), Truth(CACHED, (1, 2), in_block)),
        fault=cached.values_not_written,
    ),
    replace(
        with_its_cache("llada", "written one row off", (13,), Truth(CACHED, (1,), near_block)),
        fault=cached.written_one_row_off,
    ),
    replace(
        with_its_cache("llada", "rows of the cache rolled", (13,), Truth(CACHED, (1,), anywhere)),
        fault=cached.rows_rolled,
    ),
    replace(
        with_its_cache("hf", "rows of the cache rolled", (13,), Truth(CACHED, (1,), anywhere)),
        fault=cached.rows_rolled,
    ),
    replace(
        with_its_cache(
            "llada", "layers of the cache swapped", (13,), Truth(CACHED, (2,), anywhere)
        ),
        fault=cached.layers_swapped,
    ),
    replace(
        with_its_cache("hf", "layers of the cache swapped", (13,), Truth(CACHED, (2,), anywhere)),
        fault=cached.layers_swapped,
    ),
    replace(
        with_its_cache("llada", "keys and values swapped", (13,), Truth(CACHED, (1,), anywhere)),
        needs_model=True,
        fault=cached.keys_and_values_swapped,
    ),
    replace(
        with_its_cache("hf", "keys and values swapped", (13,), Truth(CACHED, (1,), anywhere)),
        fault=cached.keys_and_values_swapped,
    ),
    replace(
        _skipping("reference of the skip never renewed", (12,), Truth(skips_part, where=in_block)),
        fault=cached.reference_never_renewed,
    ),
)


def _of_every_style(style: Style) -> tuple[Stranger, ...]:
    """Faults that any code can have."""
    dual = style == "llada"
    ended, budget = Truth(_last, where=in_block), Truth(masks_stay, where=in_block)
    base = with_its_cache if dual else without_cache
    return (
        replace(
            with_its_cache(style, "confidence in bfloat16", (8,), PARTED),
            fault=code.coarse_confidence,
            stated=lambda job: {} if job.threshold is None else {"threshold": job.threshold},
        ),
        replace(
            with_its_cache(style, "bug in layer 3", (19,), Truth(ALWAYS, (3,), anywhere)),
            build=code.bent(style),
        ),
        replace(
            with_its_cache(style, "causal mask left on", (15,), Truth(ALWAYS, (1,), anywhere)),
            fault=code.causal,
        ),
        replace(
            base(style, "masks left by the budget", (4,), budget),
            loop=partial(code.dual, fault="budget") if dual else partial(code.plain, finish=False),
            jobs=STEEP,
        ),
        replace(
            base(style, "ends at the first EOS", (21,), ended),
            loop=partial(code.dual, fault="eos_break") if dual else code.ends_at_eos,
            model="ending",
        ),
        replace(
            without_cache(style, "stated threshold differs", (23,), PARTED),
            loop=code.lower_threshold,
            stated=lambda job: {"threshold": job.threshold},
            jobs=PARALLEL,
        ),
    )


FAULTY = (
    *OF_THE_SKIP,
    *OF_THE_CACHE,
    *OF_THE_ROWS,
    *(s for style in STYLES for s in _of_every_style(style)),
)
STRANGERS = (*CORRECT, *FAULTY)


def on_pebble(stranger: Stranger) -> Stranger:
    """The same code with the weights of the embedded model."""
    jobs = pebble_jobs()
    if stranger.jobs is STEEP:
        jobs = tuple(replace(job, threshold=0.999) for job in jobs[3:])
    elif stranger.jobs is PARALLEL:
        jobs = jobs[3:]
    return replace(stranger, model="pebble", jobs=jobs)
