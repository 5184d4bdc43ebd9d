"""Faults of a loop: where blocks begin and end, when it stops, what it passes to the model."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from faults.published.code import Call, Code, Context
from faults.published.fault import planted
from faults.published.jobs import both, fixed, padded, sure
from faults.truth import (
    ALWAYS,
    Truth,
    anywhere,
    candidates,
    diverged,
    in_block,
    masks_stay,
    near_block,
    parted,
)

PARTED = Truth(parted, where=candidates)
STAYS = Truth(masks_stay, where=in_block)

REGION = Truth(diverged, where=near_block)
_SAMPLE = "generate.DreamGenerationMixin._sample"


@planted("region-boundaries", "commit-rule", at=PARTED, into={"fast-dllm": sure("plain")})
def commits_beyond_the_block(code: Code) -> Context:
    """Masks right of the block may be committed, too."""
    whole = "mask_index = x == mask_id"
    return code.insert("generate.generate", whole, after="mask_index", nth=-1)


@planted("region-boundaries", "commit-rule", at=PARTED, into={"llada": fixed("generate")})
def commits_beyond_the_block_by_quota(code: Code) -> Context:
    """The quota of a block is given to the best masks of the whole canvas."""
    whole = "x0_p = torch.gather(p, -1, x0.unsqueeze(-1)).squeeze(-1)"
    return code.insert("generate.generate", whole, after="x0_p", nth=-1)


@planted(
    "region-boundaries",
    at=REGION,
    into={"fast-dllm": sure("dual")},
)
def block_ends_one_late(code: Code) -> Context:
    """A block has one position of the next one."""
    later = "current_block_end = min(current_block_end + 1, x.shape[1])"
    where = "generate.generate_with_dual_cache"
    return code.insert(where, later, after="current_block_end", nth=0)


@planted("region-boundaries", at=REGION, into={"fast-dllm": both("dual")})
def last_position_forgotten(code: Code) -> Context:
    """A block ends one position early, so that its last mask is never committed."""
    earlier = "current_block_end -= 1"
    where = "generate.generate_with_dual_cache"
    return code.insert(where, earlier, after="current_block_end", nth=0)


@planted("region-boundaries", at=STAYS, into={"dllm": fixed("mdlm", block_length=10)})
def the_last_block_is_not_visited(code: Code) -> Context:
    """Blocks do not divide the answer, and what is left of it at the end is left out."""
    fewer = "num_blocks = max_new_tokens // block_size"
    return code.insert("mdlm.MDLMSampler.sample", fewer, after="num_blocks", nth=0)


@planted(
    "region-boundaries",
    at=REGION,
    into={"llada": fixed("generate")[:1], "dllm-fast": sure("prefix")[:1]},
    settings=lambda job: replace(job, block_length=6),
)
def another_block_length(code: Code) -> Context:
    """Another block length was passed."""
    return nullcontext()


@planted("stop-rule", at=STAYS, into={"fast-dllm": both("plain", ending=True)})
def a_block_stops_at_eos(code: Code) -> Context:
    """A block is left as soon as it has an EOS, with masks in it."""
    stop = f"""
    if (x[:, prompt.shape[1]:] == {code.eos_id}).any():
        break
    """
    return code.insert("generate.generate", stop, after="i", nth=-1)


@planted("stop-rule", at=STAYS, into={"llada": fixed("generate", ending=True)})
def everything_stops_at_eos(code: Code) -> Context:
    """The whole loop ends at the first EOS, although masks stand before it."""
    stop = f"""
    if (x[:, prompt.shape[1]:] == {code.eos_id}).any():
        return x
    """
    return code.insert("generate.generate", stop, after="x", nth=-1)


@planted("budget-exhausted", "schedule", at=STAYS, into={"dllm-fast": (both("dual")[0],)})
def two_steps_too_few(code: Code) -> Context:
    """The loop over the steps of a block ends two steps before all is committed."""
    where = "sampler.FastdLLMLLaDASampler.sample"
    return code.insert(where, "effective_steps -= 2", after="effective_steps", nth=0)


# --- padding --------------------------------------------------------------------------------------


@planted(
    "visible-set",
    "other-inputs: attention_mask",
    at=Truth(ALWAYS, (1,), anywhere),
    into={"llada": padded("generate"), "dream": padded("whole", alg="entropy")},
    request=1,
)
def padding_is_seen(code: Code) -> Context:
    """The attention mask does not reach the model, so that padding is attended."""

    def forget(call: Call) -> None:
        if "attention_mask" in call.kwargs:
            call.kwargs["attention_mask"] = None
        elif len(call.args) > 1:
            call.args[1] = "full"

    return code.calls(forget)


@planted(
    "position-encoding",
    at=Truth(ALWAYS, (1,), anywhere),
    into={"dream": padded("whole", alg="entropy")},
    request=1,
)
def answer_begins_three_early(code: Code) -> Context:
    """Positions of the answer begin three before the end of the prompt."""
    early = """
    behind = torch.arange(x.shape[1]) >= input_ids.shape[1]
    tok_idx = tok_idx - 3 * behind
    """
    return code.insert(_SAMPLE, early, after="tok_idx", nth=0)
