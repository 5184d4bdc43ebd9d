"""Faults of what a run is given: arguments, configuration, dtype, weights, prompts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from faults.published.code import Code, Context, Job
from faults.published.fault import planted
from faults.published.jobs import FIRST, fixed, sure
from faults.published.unseen.forward import blocks
from faults.truth import (
    ALWAYS,
    Truth,
    anywhere,
    candidates,
    diverged,
    drawn_otherwise,
    parted,
    scored_otherwise,
)
from skipstone.record import RunRecord, StepRecord


def told(**more: object) -> Callable[[Job], Job]:
    """The bad run gets other options."""
    return lambda job: replace(job, options=(*job.options, *more.items()))


_TWO = (FIRST, FIRST[::-1])


def _same(code: Code) -> AbstractContextManager[None]:
    return nullcontext()


def _at_once(a: RunRecord, b: RunRecord) -> StepRecord | None:
    return b.steps[0]


# --- arguments ------------------------------------------------------------------------------------


@planted(
    "region-boundaries",
    "other-inputs",
    at=Truth(_at_once),
    into={
        "fast-dllm": fixed("plain")[:1],
        "dllm": fixed("plain")[:1],
        "d2cache": fixed("dual")[:1],
    },
    settings=lambda job: replace(job, gen_length=36, steps=24),
)
def answer_is_half_as_long_again(code: Code) -> Context:
    """The canvas has a block more: the length is another default."""
    return _same(code)


@planted(
    "reveal-order",
    "commit-rule",
    "other-inputs: sigma",
    at=Truth(parted, where=candidates),
    into={"d2cache": fixed("plain")[:1] + sure("prefix")[:1]},
    settings=told(sigma=1.0),
)
def prior_of_the_neighbours(code: Code) -> Context:
    """Confidences are weighed by how many neighbours are decided, by an argument of the config."""
    return _same(code)


@planted(
    "schedule",
    "other-inputs: eps",
    at=Truth(parted, where=candidates),
    into={
        "dream": fixed("plain", alg="maskgit_plus")[:1],
        "open-dllm": fixed("maskgit_plus")[:1],
    },
    settings=told(eps=0.3),
)
def times_end_early(code: Code) -> Context:
    """Times go from 1 to 0.3 and not to 0.001, so the last step has to fill a third."""
    return _same(code)


@planted(
    "sampler",
    "other-inputs: top_k",
    at=Truth(drawn_otherwise, where=candidates),
    into={
        "sdar": fixed("static", block_length=8)[:1],
        "dream": fixed("plain", alg="maskgit_plus", temperature=0.6)[:1],
        "open-dllm": fixed("maskgit_plus", temperature=0.6)[:1],
    },
    settings=told(top_k=3),
)
def three_best_only(code: Code) -> Context:
    """Tokens are drawn from the three best, for a generation config was read in."""
    return _same(code)


@planted(
    "schedule",
    "other-inputs: stochastic_transfer",
    at=Truth(parted),
    into={"dllm": fixed("plain")[:1], "dllm-fast": fixed("none")[:1]},
    settings=told(stochastic_transfer=True),
)
def how_many_is_drawn(code: Code) -> Context:
    """The number of tokens of a step is drawn and not rounded."""
    return _same(code)


@planted(
    "commit-rule",
    "reveal-order",
    "other-inputs: begin_suppress_tokens",
    at=Truth(parted, where=candidates),
    into={"dllm": fixed("plain")},
    settings=told(begin_suppress_tokens=list(range(2, 90))),
)
def some_tokens_have_no_confidence(code: Code) -> Context:
    """Half of the vocabulary may be chosen but has no confidence: it is suppressed too late."""
    return _same(code)


@planted(
    "region-boundaries",
    "other-inputs: align",
    at=Truth(diverged),
    into={"dinfer": sure("plain")[:1] + sure("dual")[1:]},
    settings=told(align=True),
)
def blocks_start_at_multiples(code: Code) -> Context:
    """Blocks are counted from the start of the prompt, so the first one has some of it."""
    return _same(code)


@planted(
    "region-boundaries",
    "other-inputs: look",
    at=Truth(diverged),
    into={"dinfer": sure("vicinity")[:1] + sure("vicinity", after_look=2)[1:]},
    settings=told(prefix_look=4),
)
def four_more_rows_are_computed(code: Code) -> Context:
    """Four rows left of the block are computed again in every step."""
    return _same(code)


@planted(
    "stop-rule",
    "other-inputs: early_stop",
    at=Truth(lambda a, b: parted(a, b) or b.steps[-1]),
    into={"dinfer": sure("plain", ending=True)[:1] + sure("dual", ending=True)[:1]},
    settings=told(early_stop=True),
)
def the_rest_is_filled_at_an_end(code: Code) -> Context:
    """A block with an EOS ends the answer: what is right of it is filled with EOS."""
    return _same(code)


@planted(
    "stale-kv",
    "stale-skipped-state",
    "other-inputs: answer_steps",
    "other-inputs: gen_interval_steps",
    at=Truth(scored_otherwise, (2,), anywhere),
    into={"dllm-cache": fixed("cached")},
    settings=told(answer_steps=4),
)
def answers_are_kept_twice_as_long(code: Code) -> Context:
    """Features of the answer are renewed every four steps and not every two."""
    return _same(code)


@planted(
    "visible-set",
    "other-inputs: sparse_kv",
    at=Truth(scored_otherwise, (1,), anywhere),
    into={"es-dllm": fixed("plain", prompts=_TWO)[:1] + sure("plain", prompts=_TWO)[1:]},
    settings=told(sparse_kv=0.5),
)
def half_of_the_cache_is_left_out(code: Code) -> Context:
    """Half of the keys outside the block are dropped from the second step of a block on."""
    return _same(code)


@planted(
    "other-inputs: prompt",
    at=Truth(_at_once),
    into={"dllm-fast": sure("dual")[:1], "d2cache": fixed("dual")[:1], "sdar": sure("dynamic")[:1]},
    settings=lambda job: replace(job, prompts=tuple(p[2:] for p in job.prompts)),
)
def prompt_is_cut_on_its_left(code: Code) -> Context:
    """The first two tokens of the prompt are cut off, for the tokenizer has a longest length."""
    return _same(code)


# --- configuration --------------------------------------------------------------------------------


@planted(
    "other-inputs: input_emb_norm",
    "module-bug",
    at=Truth(ALWAYS),
    into={"fast-dllm": fixed("plain")[:1], "d2cache": fixed("dual")[:1]},
)
def embeddings_are_scaled(code: Code) -> Context:
    """The configuration says that embeddings are multiplied by the root of the width."""
    for config in (code.net.config, code.net.model.config):
        config.input_emb_norm = True
    return _same(code)


@planted(
    "position-encoding",
    "other-inputs: rope_theta",
    at=Truth(ALWAYS),
    into={"llada": fixed("plain")[:1], "fast-dllm": sure("dual")[:1], "d2cache": sure("dual")[:1]},
)
def base_of_the_angles(code: Code) -> Context:
    """The configuration has the base of a version for longer texts: 500,000 and not 10,000."""
    for block in blocks(code):
        code.net.config.rope_theta = block.rotary_emb.config.rope_theta = 500_000.0
        block.rotary_emb.rope_theta = 500_000.0
        # Angles were computed once, and are kept.
        block.rotary_emb._RotaryEmbedding__cache.clear()
    return _same(code)


# --- weights --------------------------------------------------------------------------------------


@planted(
    "other-inputs: weights",
    at=Truth(ALWAYS),
    into={"llada": fixed("plain")[:1], "dllm-cache": fixed("plain")[:1]},
)
def head_is_tied(code: Code) -> Context:
    """The head has the weights of the embedding: whoever loaded it tied them."""
    inner = code.net.model.transformer
    inner.ff_out.weight.data.copy_(inner.wte.weight)
    return _same(code)


@planted(
    "other-inputs: weights",
    "quantised",
    at=Truth(ALWAYS),
    into={"fast-dllm": fixed("dual")[:1], "sdar": fixed("static", block_length=8)[:1]},
)
def keys_from_four_bits(code: Code) -> Context:
    """Weights of the keys went through four bits a number."""
    for name, weight in code.net.named_parameters():
        if "k_proj.weight" in name:
            step = weight.abs().amax(-1, keepdim=True) / 7
            weight.data.copy_((weight / step).round() * step)
    return _same(code)


@planted(
    "other-inputs: weights",
    at=Truth(ALWAYS),
    into={"dream-fast": sure("dual")[:1], "dream": fixed("plain", alg="entropy")[:1]},
)
def two_layers_change_places(code: Code) -> Context:
    """The second and the third layer have each other's weights, by a wrong map of the shards."""
    layers: Any = code.net.model.layers
    second = {name: t.clone() for name, t in layers[1].state_dict().items()}
    layers[1].load_state_dict(layers[2].state_dict())
    layers[2].load_state_dict(second)
    return _same(code)


@planted(
    "other-inputs: dtype",
    at=Truth(ALWAYS),
    into={"d2cache": fixed("dual")[:1], "open-dllm": fixed("entropy")[:1]},
)
def model_in_float16(code: Code) -> Context:
    """The model was loaded in float16, the dtype that another script asks for."""
    code.net.to(torch.float16)
    return _same(code)
