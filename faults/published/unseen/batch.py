"""Faults of requests that are decoded together: padding, unequal lengths, rows of another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from faults.published.code import Code, Context, Job
from faults.published.fault import planted
from faults.published.jobs import FIRST, SECOND, THIRD, fixed, padded, sure
from faults.published.unseen.cache import read
from faults.published.unseen.forward import Attention, attended
from faults.published.weights import EOS
from faults.truth import (
    ALWAYS,
    CACHED,
    Truth,
    anywhere,
    candidates,
    first_positions,
    parted,
    scored_otherwise,
)

_OTHER = (71, 5, 102, 64, 39, 118, 12, 80, 47)


def pair(*jobs: Job) -> tuple[Job, ...]:
    """Two prompts of equal length, of which the second one is asked about."""
    return tuple(replace(job, prompts=(FIRST, _OTHER)) for job in jobs)


def unequal(*jobs: Job) -> tuple[Job, ...]:
    """Three prompts of other lengths, of which the shortest is the second."""
    return tuple(replace(job, prompts=(FIRST, SECOND, THIRD)) for job in jobs)


# --- padding --------------------------------------------------------------------------------------


@planted(
    "visible-set",
    at=Truth(ALWAYS, (1,), anywhere),
    into={"llada": padded("plain"), "d2cache": padded("plain") + padded("dual")},
    request=1,
)
def model_forgets_the_mask(code: Code) -> Context:
    """The model takes an attention mask and does not hand it to its attention."""

    def deaf(attention: Attention) -> Attention:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Any:
            return attention(q, k, v, **(more | {"attn_mask": None}))

        return wrong

    return attended(code, deaf)


@planted(
    "non-finite",
    at=Truth(ALWAYS, (1,), first_positions(4)),
    into={"llada": padded("plain")},
    request=1,
)
def padding_sees_nothing(code: Code) -> Context:
    """Rows of padding may see no key at all, so their softmax is 0/0, and others read it."""

    def blind(attention: Attention) -> Attention:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Any:
            seen = more["attn_mask"].expand(-1, -1, q.shape[-2], -1)
            hidden = seen[:, :, -1] < -1e4
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + seen
            return scores.masked_fill(hidden[..., None], -torch.inf).softmax(-1) @ v

        return wrong

    return attended(code, blind)


@planted(
    "visible-set",
    "other-inputs: attention_mask",
    at=Truth(ALWAYS, (1,), anywhere),
    into={"llada": padded("plain"), "d2cache": padded("plain")},
    request=1,
)
def answer_is_padding(code: Code) -> Context:
    """The mask of the prompts is made longer with zeros, so that nobody sees the answer."""
    if code.base.name == "llada":
        hide = "attention_mask[:, prompt.shape[1]:] = 0"
        return code.insert("generate.generate", hide, after="attention_mask", nth=0)
    hide = "attention_mask[:, input_ids.shape[1]:] = 0"
    return code.insert("generate.vanilla_generate", hide, after="attention_mask", nth=-1)


@planted(
    "visible-set",
    "other-inputs: attention_mask",
    at=Truth(ALWAYS, (1,), anywhere),
    into={"llada": padded("plain"), "d2cache": padded("dual")},
    request=1,
)
def mask_of_the_first_request_for_all(code: Code) -> Context:
    """The attention mask of the first request is used for every request."""
    first = "attention_mask = attention_mask[:1].expand_as(attention_mask)"
    if code.base.name == "llada":
        return code.insert("generate.generate", first, after="attention_mask", nth=0)
    return code.insert("generate.vanilla_generate", first, after="attention_mask", nth=-1)


@planted(
    "visible-set",
    "other-inputs: attention_mask",
    at=Truth(ALWAYS, (1,), anywhere),
    into={"es-dllm": padded("plain")},
    request=1,
)
def padding_is_valid(code: Code) -> Context:
    """The cache is told that padding is valid."""
    return code.insert(
        "generate.batch_generate", "mask = torch.ones_like(mask)", after="mask", nth=-1
    )


@planted(
    "visible-set",
    "other-inputs: attention_mask",
    at=Truth(ALWAYS, (1,), anywhere),
    into={"dllm": unequal(*fixed("plain"))},
    request=1,
)
def padding_after_a_short_request_is_seen(code: Code) -> Context:
    """The mask is all ones, so a short request sees the padding behind it."""
    where = "mdlm.MDLMSampler.sample"
    return code.insert(where, "attention_mask[:] = 1", after="histories", nth=0)


def _on_the_right(job: Job) -> Job:
    short = (*SECOND[:5], *(EOS,) * (len(FIRST) - 5))
    return replace(job, prompts=(FIRST, short), visible=((1,) * 9, (1,) * 5 + (0,) * 4))


@planted(
    "other-inputs",
    "position-encoding",
    at=Truth(lambda a, b: b.steps[0]),
    into={"llada": padded("plain")},
    settings=_on_the_right,
    request=1,
)
def prompts_are_padded_on_their_right(code: Code) -> Context:
    """Padding stands between a short prompt and its answer, which are four positions apart."""
    return code.calls(lambda _: None)


@planted(
    "visible-set",
    "other-inputs: attention_mask",
    "other-inputs: pad_token_id",
    at=Truth(ALWAYS, (1,), anywhere),
    into={"d2cache": fixed("plain")[:1] + fixed("dual")[:1], "open-dllm": fixed("entropy")[:1]},
    settings=lambda job: replace(job, options=(*job.options, *_pad_id(job))),
)
def a_token_of_the_prompt_is_padding(code: Code) -> Context:
    """The padding id is that of a token of the prompt, which therefore is hidden."""
    if code.base.name == "open-dllm":
        code.net.config.pad_token_id = FIRST[2]
    return code.calls(lambda _: None)


def _pad_id(job: Job) -> tuple[tuple[str, int], ...]:
    """As an argument, where there is one; Open-dLLM asks its model."""
    return () if job.loop == "entropy" else (("pad_token_id", FIRST[2]),)


# --- rows and rules of another request ------------------------------------------------------------


@planted(
    "no-commit",
    "commit-rule",
    at=Truth(parted),
    into={"dinfer": pair(*sure("plain"))},
    request=1,
)
def one_sure_request_is_enough(code: Code) -> Context:
    """A request commits nothing where it is below the threshold but another one commits."""
    best = "actual_threshold = (confidence.max() - 1e-5).clamp(-1000, threshold)"
    return code.insert("rule.get_transfer_index_threshold", best, after="actual_threshold")


@planted(
    "commit-rule",
    "over-parallel",
    "scattered-tokens",
    at=Truth(parted, where=candidates),
    into={"dream": pair(*fixed("plain", alg="maskgit_plus")[:1])},
)
def all_is_written_to_the_first_request(code: Code) -> Context:
    """Positions that were chosen for any request are filled in the first one."""
    first = "row_indices = torch.zeros_like(row_indices)"
    return code.insert("generate.DreamGenerationMixin._sample", first, after="row_indices")


@planted(
    "region-boundaries",
    "commit-rule",
    at=Truth(parted),
    into={"dllm": unequal(*fixed("plain"))},
    request=1,
)
def blocks_start_behind_the_longest_prompt(code: Code) -> Context:
    """The blocks of every request are counted from the length of the longest prompt."""
    longest = "prompt_lens = [max(prompt_lens)] * B"
    return code.insert("mdlm.MDLMSampler.sample", longest, after="histories", nth=0)


@planted(
    "stale-kv",
    "stale-skipped-state",
    at=Truth(CACHED, (2,), anywhere),
    into={"dllm-cache": pair(*fixed("cached")[:1])},
    request=1,
)
def rows_of_the_first_request_are_renewed(code: Code) -> Context:
    """Which rows changed most is asked of the first request, for all."""

    def first(choose: Any) -> Callable[..., Tensor]:
        def wrong(new: Tensor, *more: Any) -> Tensor:
            chosen = choose(new, *more)
            return chosen[:1].expand_as(chosen).contiguous()

        return wrong

    return code.change("hook.refresh_index", first)


@planted(
    "wrong-cache-row",
    at=Truth(scored_otherwise, (1,), anywhere),
    into={"d2cache": pair(*sure("dual")[:1]) + pair(*sure("prefix"))},
    request=1,
)
def cache_of_the_first_that_is_left(code: Code) -> Context:
    """Once a request is done, the others read the first rows of the cache, and not their own."""

    def first(cache: Any, ctx: Any, layer: int) -> None:
        number = int(cache.active_seq_mask.sum())
        if cache.active_q_mask is not None and number < len(cache.active_seq_mask):
            ctx.k = cache.key_cache[layer][:number]
            ctx.v = cache.value_cache[layer][:number]

    return read(code, first)
