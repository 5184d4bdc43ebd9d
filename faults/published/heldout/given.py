"""What was given differs, and nobody said so: settings, seeds, prompts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from faults.published.code import Code, Context, Job
from faults.published.fault import planted
from faults.published.heldout.loop import NUMBERS
from faults.published.heldout.rule import PARTED
from faults.published.jobs import both, fixed, sure
from faults.truth import ALWAYS, Truth, anywhere, diverged, near_block

REGION = Truth(diverged, where=near_block)
ROWS = Truth(diverged, where=anywhere)


def _with(**options: Any) -> Callable[[Job], Job]:
    """Settings of the bad run, over those of the good one."""
    return lambda job: replace(job, options=tuple((dict(job.options) | options).items()))


@planted(
    "sampler",
    "other-inputs: seed",
    at=PARTED,
    into={
        "llada": fixed("generate", temperature=0.8)[:1],
        "sdar": sure("dynamic", block_length=8)[:1],
        "dinfer": sure("plain", temperature=0.8)[1:],
    },
    settings=lambda job: replace(job, seed=job.seed + 1),
)
def another_seed(code: Code) -> Context:
    """The draws begin from another seed."""
    return nullcontext()


@planted(
    "sampler",
    at=PARTED,
    into={
        "llada": fixed("generate", temperature=0.8)[1:],
        "sdar": fixed("static", block_length=8)[:1],
        "dream": fixed("whole", alg="maskgit_plus", temperature=0.8)[:1],
    },
    settings=_with(temperature=0.3),
)
def another_temperature(code: Code) -> Context:
    """A lower temperature was passed."""
    return nullcontext()


@planted(
    "sampler",
    "commit-rule",
    at=PARTED,
    into={
        "dream": fixed("whole", alg="maskgit_plus", temperature=1.0, top_p=0.95)[:1],
        "sdar": fixed("static", block_length=8, top_p=0.95)[1:],
    },
    settings=_with(top_p=0.5),
)
def another_top_p(code: Code) -> Context:
    """Fewer of the probable tokens may be drawn."""
    return nullcontext()


@planted(
    "reveal-order",
    "commit-rule",
    at=PARTED,
    into={"dream": fixed("whole", alg="entropy")},
    settings=_with(alg="topk_margin"),
)
def another_algorithm(code: Code) -> Context:
    """Masks are ordered by margin where it was entropy."""
    return nullcontext()


@planted(
    "reveal-order",
    "commit-rule",
    at=PARTED,
    into={"open-dllm": fixed("maskgit_plus")},
    settings=lambda job: replace(job, loop="entropy"),
)
def another_algorithm_of_the_loop(code: Code) -> Context:
    """Masks are ordered by entropy where it was probability."""
    return nullcontext()


@planted(
    "reveal-order",
    "commit-rule",
    at=PARTED,
    into={"dream": fixed("whole", alg="maskgit_plus")[:1], "open-dllm": fixed("entropy")[:1]},
    settings=_with(alg_temp=0.4),
)
def order_is_drawn(code: Code) -> Context:
    """The order of commits is drawn at a temperature."""
    return nullcontext()


@planted(
    "reveal-order",
    at=PARTED,
    into={"sdar": fixed("static", block_length=8)[:1]},
    settings=lambda job: replace(job, loop="sequential"),
)
def from_left_to_right(code: Code) -> Context:
    """Masks are committed from left to right where the best came first."""
    return nullcontext()


@planted(
    "schedule",
    at=NUMBERS,
    into={"dream": fixed("whole", alg="entropy")[:1], "open-dllm": fixed("entropy")[:1]},
    settings=_with(eps=0.3),
)
def another_last_time(code: Code) -> Context:
    """Times end at 0.3, not near zero, so that more is left for the last step."""
    return nullcontext()


@planted(
    "schedule",
    at=PARTED,
    into={"dllm": fixed("mdlm")[:1]},
    settings=_with(stochastic_transfer=True),
)
def quota_is_drawn(code: Code) -> Context:
    """The number of commits of a step is drawn."""
    return nullcontext()


@planted(
    "schedule",
    at=PARTED,
    into={"sdar": fixed("static", block_length=8)},
    settings=_with(denoising_steps=4),
)
def half_the_steps_of_a_block(code: Code) -> Context:
    """Half as many steps a block were passed."""
    return nullcontext()


@planted(
    "over-parallel",
    "commit-rule: threshold",
    at=PARTED,
    into={
        "dinfer": sure("plain")[:1] + sure("prefix")[1:],
        "sdar": sure("dynamic", block_length=8)[1:],
    },
    settings=lambda job: replace(job, threshold=(job.threshold or 0) * 0.7),
)
def another_threshold_by_setting(code: Code) -> Context:
    """A lower threshold was passed."""
    return nullcontext()


@planted(
    "commit-rule",
    at=PARTED,
    into={"dinfer": sure("plain")[:1] + sure("dual")[1:]},
    settings=_with(decoder="CreditThreshold"),
)
def another_decoder(code: Code) -> Context:
    """The decoder that raises tokens which were likely before was chosen."""
    return nullcontext()


@planted(
    "region-boundaries",
    at=REGION,
    into={"dinfer": sure("plain")[:1] + sure("dual")[1:]},
    settings=_with(align=True),
)
def blocks_lie_on_a_grid(code: Code) -> Context:
    """The first block begins inside the prompt, at a multiple of the block length."""
    return nullcontext()


@planted(
    "region-boundaries",
    "stale-kv",
    at=ROWS,
    into={"dinfer": sure("vicinity", prefix_look=2, after_look=3)},
    settings=_with(prefix_look=0, after_look=0),
)
def no_rows_beside_the_block(code: Code) -> Context:
    """The rows beside a block are not computed with it."""
    return nullcontext()


@planted(
    "stale-kv",
    at=ROWS,
    into={"dinfer": sure("dual", cache_update_freq=2)},
    settings=_with(cache_update_freq=None),
)
def refreshed_only_at_a_block(code: Code) -> Context:
    """The cache is computed anew at the start of a block, not every two steps."""
    return nullcontext()


@planted(
    "region-boundaries",
    "stale-kv",
    at=ROWS,
    into={"dinfer": sure("prefix"), "fast-dllm": both("prefix")[:1]},
    settings=lambda job: replace(job, loop="dual"),
)
def suffix_is_cached_too(code: Code) -> Context:
    """What is right of the block is read from the cache, where it was computed in each step."""
    return nullcontext()


@planted(
    "other-inputs",
    at=Truth(ALWAYS),
    into={"dinfer": sure("plain")[:1], "sdar": fixed("static", block_length=8)[:1]},
    settings=lambda job: replace(job, prompts=tuple(p[1:] for p in job.prompts)),
)
def first_token_is_missing(code: Code) -> Context:
    """The prompt has no first token, as without the one that begins a text."""
    return nullcontext()


@planted(
    "other-inputs",
    at=Truth(ALWAYS),
    into={"open-dllm": fixed("p2")[:1], "dllm": fixed("mdlm")[:1]},
    settings=lambda job: replace(job, prompts=tuple((*p[:-1], 77) for p in job.prompts)),
)
def template_ends_otherwise(code: Code) -> Context:
    """The last token of the prompt is another one."""
    return nullcontext()


@planted(
    "other-inputs: length",
    "region-boundaries: length",
    at=Truth(ALWAYS),
    into={"llada": fixed("generate")[1:], "fast-dllm": sure("dual")[:1]},
    settings=lambda job: replace(
        job, gen_length=job.gen_length + 2 * job.block_length, steps=job.steps + 16
    ),
)
def canvas_is_longer(code: Code) -> Context:
    """A longer answer was asked for, so that more masks are seen."""
    return nullcontext()
