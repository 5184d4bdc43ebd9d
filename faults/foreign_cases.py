"""All foreign code that the bench knows: right code, and code with each fault that it can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from faults import foreign_cache as cached
from faults import foreign_code as code
from faults.foreign import PARALLEL, STEEP, Stranger, decoded
from faults.foreign_code import STYLES, Job, Loop, Style, model
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
from skipstone import DualCache, Engine, NoCache, PrefixCache
from skipstone.cache import CachePolicy
from skipstone.record import RunRecord, StepRecord


def between(stranger: Stranger, job: Job) -> Job:
    """A skip threshold between what bfloat16 and float32 see of one row in the first judged step.

    Up to there nothing can have skipped, so that its similarities do not depend on the threshold.
    """
    ours, means = model(stranger.model), list[np.ndarray]()
    for dtype in ("float32", "bfloat16"):
        tuned = replace(job, skip=replace(job.skip, similarity_dtype=dtype))
        steps = decoded(Engine(ours, stranger.settings(tuned)), job).records[0].steps
        means.append(next(s.judgements.mean for s in steps if s.judgements is not None))
    best = int(np.abs(means[0] - means[1]).argmax())
    middle = float(means[0][best] + means[1][best]) / 2
    return replace(job, skip=replace(job.skip, skip_threshold=middle))


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
        needs_model=("engine", "code"),
        fault=cached.queries_turned_short,
    ),
    replace(
        with_its_cache("hf", "rows turned short", (14,), Truth(CACHED, (1,), anywhere)),
        needs_model=("engine", "code"),
        fault=cached.rows_turned_short,
    ),
    replace(
        with_its_cache("bare", "queries turned short", (14,), Truth(ALWAYS, (1,), anywhere)),
        needs_model=("engine", "code"),
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
        needs_model=("engine", "code"),
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
            # Our engine records no queries: a layer that turns them otherwise looks like this.
            needs_model=("engine",),
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
