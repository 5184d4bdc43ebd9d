"""Faults of the commit rule: which masks become tokens, which tokens, and how many."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from faults.published.code import Code, Context
from faults.published.fault import planted
from faults.published.jobs import both, fixed, sure
from faults.truth import ALWAYS, Truth, candidates, parted, when

PARTED = Truth(parted, where=candidates)
EMPTY = Truth(when(lambda step: not step.committed))

# Where each code base turns logits into commits, and what it calls the probabilities.
_RULES = {
    "fast-dllm": ("generate.get_transfer_index", "p"),
    "llada": ("generate.generate", "p"),
    "dkv-cache": ("generate.generate", "p"),
    "dllm": ("mdlm.MDLMSampler.sample", "p"),
    "dllm-fast": ("sampler._get_transfer_index", "p"),
    "dream": ("generate.sample_tokens", "probs"),
    "dream-fast": ("generate.sample_tokens", "probs"),
    "es-dllm": ("generate.sample_tokens_LLaDA", "p"),
}
DREAM = {"dream": fixed("whole", alg="maskgit_plus")}


def in_rule(code: Code, statement: str, *, after: str = "", nth: int | None = None) -> Context:
    """Put a statement behind the probabilities of a rule, or behind another variable of it."""
    where, probabilities = _RULES[code.base.name]
    return code.insert(where, statement, after=after or probabilities, nth=nth)


# --- what a candidate is worth --------------------------------------------------------------------


@planted(
    "confidence-dtype",
    at=PARTED,
    into={
        "dkv-cache": fixed("decode", sharp=True)[:1],
        "fast-dllm": fixed("dual", sharp=True),
        "llada": fixed("generate", sharp=True),
        "dllm-fast": fixed("dual", sharp=True)[:1],
    },
)
def confidence_in_bfloat16(code: Code) -> Context:
    """The softmax behind the confidence is taken in bfloat16."""
    return in_rule(code, "p = torch.softmax(logits.bfloat16(), -1).to(logits.dtype)")


@planted(
    "commit-rule",
    at=PARTED,
    into={
        "dkv-cache": fixed("decode")[:1],
        "fast-dllm": both("dual"),
        "dllm": fixed("mdlm")[:1],
        **DREAM,
    },
)
def softmax_over_positions(code: Code) -> Context:
    """The softmax runs over the positions, not over the vocabulary."""
    if code.base.name == "dream":
        # It has cut out the masks already, [M, V].
        return in_rule(code, "probs = torch.softmax(logits, 0)")
    return in_rule(code, "p = torch.softmax(logits, 1)")


@planted(
    "commit-rule",
    "reveal-order",
    at=PARTED,
    into={"llada": fixed("generate"), "fast-dllm": fixed("prefix")[:1]},
)
def margin_not_probability(code: Code) -> Context:
    """Masks are ordered by how far their best token is ahead of the next one."""
    margin = """
    top = p.topk(2, -1).values
    x0_p = top[..., 0] - top[..., 1]
    """
    return in_rule(code, margin, after="x0_p", nth=0)


@planted(
    "reveal-order", "commit-rule", at=PARTED, into={"dream": fixed("whole", alg="maskgit_plus")}
)
def least_certain_first(code: Code) -> Context:
    """The sign of the score is wrong: the least probable masks are committed first."""
    return in_rule(code, "confidence = -confidence", after="confidence", nth=2)


@planted(
    "reveal-order",
    at=PARTED,
    into={
        "dkv-cache": fixed("decode")[:1],
        "fast-dllm": fixed("dual"),
        "llada": fixed("generate")[:1],
    },
)
def random_order(code: Code) -> Context:
    """Masks are committed in random order, not the most confident first."""
    return in_rule(code, "x0_p = torch.rand(x0_p.shape).to(x0_p)", after="x0_p", nth=0)


@planted(
    "reveal-order",
    at=PARTED,
    into={"dllm": fixed("mdlm")[:1]},
    settings=lambda job: replace(job, options=(("remasking", "random"),)),
)
def random_order_by_setting(code: Code) -> Context:
    """The other remasking strategy was passed."""
    return nullcontext()


@planted(
    "commit-rule: mask",
    "other-inputs: mask",
    at=Truth(ALWAYS),
    into={"fast-dllm": both("dual"), "llada": fixed("generate")[:1]},
    settings=lambda job: replace(job, options=(*job.options, ("mask_id", 100))),
)
def another_mask_id(code: Code) -> Context:
    """The loop fills the canvas with an id that is not the mask of the configuration."""
    return nullcontext()


@planted(
    "commit-tie",
    at=PARTED,
    into={
        "llada": fixed("generate", sharp=True, dtype="bfloat16"),
        "es-dllm": fixed("cache", sharp=True),
    },
)
def ties_from_the_right(code: Code) -> Context:
    """Of equal confidences the one furthest to the right is committed."""
    if code.base.name == "es-dllm":
        last = (
            "selected_index = x0_p.shape[1] - 1 - x0_p.flip(1).topk(decode_token_cnt, -1).indices"
        )
        return in_rule(code, last, after="selected_index", nth=-1)
    last = """
    size = len(select_index)
    select_index = confidence.shape[1] - 1 - torch.sort(
        confidence[j].flip(0), descending=True, stable=True
    ).indices[:size]
    """
    return in_rule(code, last, after="select_index")


# --- which token ----------------------------------------------------------------------------------


@planted(
    "commit-rule",
    at=PARTED,
    into={"fast-dllm": both("dual", ending=True), "es-dllm": fixed("cache", ending=True)[:1]},
)
def eos_suppressed(code: Code) -> Context:
    """EOS is never chosen."""
    never = f"""
    logits_with_noise = logits_with_noise.clone()
    logits_with_noise[..., {code.eos_id}] = -torch.inf
    """
    return in_rule(code, never, after="logits_with_noise", nth=0)


@planted(
    "commit-rule",
    at=PARTED,
    into={"dllm": fixed("mdlm", ending=True)},
    settings=lambda job: replace(job, options=(("suppress_tokens", (158,)),)),
)
def eos_suppressed_by_setting(code: Code) -> Context:
    """Ids to suppress were passed, EOS among them."""
    return nullcontext()


@planted(
    "commit-rule", at=PARTED, into={"fast-dllm": both("plain"), "llada": fixed("generate")[:1]}
)
def logits_shifted_by_one(code: Code) -> Context:
    """The logits of the position to the left are taken, as for another family of models."""
    shift = "logits = torch.cat([logits[:, :1], logits[:, :-1]], 1)"
    nth = 0 if code.base.name == "fast-dllm" else 3
    return code.insert("generate.generate", shift, after="logits", nth=nth)


@planted("commit-rule", at=PARTED, into={**DREAM, "dream-fast": both("prefix")})
def logits_not_shifted(code: Code) -> Context:
    """Every position is scored by its own row, which scores its neighbour to the right."""
    last = 3 if code.base.name == "dream-fast" else 1
    back = "logits = torch.cat([logits[:, 1:], logits[:, -1:]], 1)"
    return code.insert("generate.DreamGenerationMixin._sample", back, after="logits", nth=last)


@planted("scattered-tokens", "commit-rule", at=PARTED, into={"fast-dllm": both("plain")})
def token_of_the_neighbour(code: Code) -> Context:
    """A position gets the token that was chosen for its neighbour to the left."""
    move = """
    moved = x0.roll(1, 1)
    x0 = torch.where(x == mask_id, moved, x)
    """
    return code.insert("generate.generate", move, after="x0", nth=0)


@planted(
    "sampler",
    at=PARTED,
    into={"llada": fixed("generate"), "fast-dllm": both("dual")[:1], "dllm-fast": both("none")[1:]},
)
def temperature_left_on(code: Code) -> Context:
    """Tokens are drawn at a temperature, although 0 was passed."""

    def make(noisy: Any) -> Any:
        def wrong(logits: Tensor, temperature: float) -> Tensor:
            return noisy(logits, 0.8)

        return wrong

    module = "sampler" if code.base.name == "dllm-fast" else "generate"
    return code.change(f"{module}.add_gumbel_noise", make)


@planted(
    "sampler",
    at=PARTED,
    into={
        "llada": fixed("generate", temperature=0.8),
        "fast-dllm": both("dual", temperature=0.8)[:1],
    },
)
def noise_in_float32(code: Code) -> Context:
    """Gumbel noise is drawn and applied in float32."""

    def make(noisy: Any) -> Any:
        def wrong(logits: Tensor, temperature: float) -> Tensor:
            noise = torch.rand_like(logits.float())
            return logits.float().exp() / (-torch.log(noise)) ** temperature

        return wrong

    return code.change("generate.add_gumbel_noise", make)


# --- how many -------------------------------------------------------------------------------------


@planted(
    "schedule",
    at=PARTED,
    into={"fast-dllm": fixed("dual")[:1] + fixed("plain")[:1], "dllm": fixed("mdlm")[:1]},
)
def remainder_at_the_wrong_end(code: Code) -> Context:
    """Where masks do not divide by steps, the last steps commit one more, not the first."""

    def make(quota: Any) -> Any:
        def wrong(*args: Any, **kwargs: Any) -> Tensor:
            return quota(*args, **kwargs).flip(1)

        return wrong

    module = "mdlm" if code.base.name == "dllm" else "generate"
    return code.change(f"{module}.get_num_transfer_tokens", make)


@planted("schedule", at=PARTED, into={"fast-dllm": fixed("dual"), "dllm-fast": fixed("prefix")[:1]})
def quota_of_the_whole_canvas(code: Code) -> Context:
    """The masks of the whole canvas are shared out among the steps of one block."""
    if code.base.name == "dllm-fast":
        where = "sampler.FastdLLMLLaDASampler.sample"
        return code.insert(where, "block_mask_index = x == mask_id", after="block_mask_index")
    where = "generate.generate_with_dual_cache"
    return code.insert(where, "block_mask_index = x == mask_id", after="block_mask_index")


@planted(
    "schedule",
    at=PARTED,
    into={"llada": fixed("generate"), "dream": fixed("whole", alg="entropy")[:1]},
    settings=lambda job: replace(job, steps=job.steps // 2),
)
def half_the_steps(code: Code) -> Context:
    """Half as many steps were passed."""
    return nullcontext()


@planted(
    "over-parallel",
    "commit-rule: threshold",
    at=PARTED,
    into={"fast-dllm": sure("dual"), "dllm-fast": sure("none")[:1], "es-dllm": sure("cache")[:1]},
)
def another_threshold(code: Code) -> Context:
    """Another threshold than the one that was passed decides."""
    lower = "threshold = None if threshold is None else threshold * 0.7"
    return in_rule(code, lower, after="x0", nth=0)


@planted(
    "over-parallel",
    "commit-rule",
    at=PARTED,
    into={"dllm-fast": (sure("none", factor=1.0)[0], sure("prefix", factor=0.7)[1])},
)
def factor_off_by_one(code: Code) -> Context:
    """The bound of the factor rule for n commits is that for n - 1."""
    return in_rule(code, "thr = 1.0 - factor_t / (ranks + 2.0)", after="thr", nth=0)


@planted(
    "no-commit",
    at=EMPTY,
    into={"dllm-fast": tuple(replace(job, threshold=0.8) for job in sure("dual"))},
)
def nobody_is_sure_enough(code: Code) -> Context:
    """Where nobody reaches the threshold, nothing is committed."""
    return in_rule(code, "need_force = torch.zeros_like(need_force)", after="need_force")


@planted("over-parallel", "commit-rule", "schedule", at=PARTED, into={"fast-dllm": fixed("plain")})
def written_outside_the_transfer_mask(code: Code) -> Context:
    """The mask to the right of each commit gets its token, too, although it was not chosen."""
    wider = """
    beside = transfer_index.roll(1, 1) & mask_index
    transfer_index = transfer_index | beside
    """
    return code.insert("generate.generate", wider, after="transfer_index", nth=0)


@planted(
    "reveal-order",
    "commit-rule",
    at=PARTED,
    into={
        "llada": tuple(
            replace(job, prompts=(*job.prompts, job.prompts[0][::-1])) for job in fixed("generate")
        )
    },
)
def confidence_of_the_other_request(code: Code) -> Context:
    """Which masks of a request are committed is decided by the confidences of the other one."""
    return in_rule(code, "confidence = confidence.flip(0)", after="confidence", nth=0)


@planted(
    "commit-rule",
    at=PARTED,
    into={"llada": fixed("generate", cfg_scale=1.0), "dllm": fixed("mdlm", cfg_scale=1.0)[:1]},
)
def guidance_too_weak(code: Code) -> Context:
    """The guidance scale is applied without the 1 that belongs to it."""
    weaker = "logits = un_logits + (logits - un_logits) * cfg_scale / (cfg_scale + 1)"
    return in_rule(code, weaker, after="logits", nth=1)


@planted("commit-rule", at=PARTED, into={"llada": fixed("generate", cfg_scale=0.5)})
def guidance_halves_swapped(code: Code) -> Context:
    """The half of the batch without the prompt is taken for the one with it."""
    return in_rule(code, "logits, un_logits = un_logits, logits", after="logits", nth=1)
