"""Faults of a loop: how many a step, where blocks are, when it stops, what becomes of a batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from faults.published.code import Call, Code, Context, Job
from faults.published.fault import planted
from faults.published.heldout.rule import rule
from faults.published.jobs import FIRST, SECOND, fixed, sure
from faults.truth import (
    Truth,
    anywhere,
    candidates,
    from_forward,
    in_block,
    masks_stay,
    parted,
    when,
)
from skipstone.record import RunRecord, StepRecord


def batch(jobs: tuple[Job, ...]) -> tuple[Job, ...]:
    """Two prompts of the same length."""
    other = tuple((3 * id + 5) % 150 for id in FIRST)
    return tuple(replace(job, prompts=(FIRST, other)) for job in jobs)


def by_number(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """The first step of B that leaves another canvas than A's of the same number.

    Steps without a commit have one canvas, so that they are not told apart by it.
    """
    pairs = zip(a.steps, b.steps, strict=False)
    return next((y for x, y in pairs if not np.array_equal(x.ids_after, y.ids_after)), None)


def last_step(a: RunRecord, b: RunRecord) -> StepRecord:
    """The last step of B."""
    return b.steps[-1]


PARTED = Truth(parted, where=candidates)
NUMBERS = Truth(by_number, where=candidates)
STAYS = Truth(masks_stay, where=in_block)
PARTIAL = when(lambda step: step.rows.size < step.entered_age.size)

DREAM = {"dream": fixed("whole", alg="entropy"), "open-dllm": fixed("entropy")}
SPARSE = {base: jobs[1:] for base, jobs in DREAM.items()}
"""Jobs whose schedule has steps with nothing to commit."""


# --- how many -------------------------------------------------------------------------------------


@planted(
    "schedule",
    at=PARTED,
    into={"llada": fixed("generate")[:1], "dkv-cache": fixed("decode")[:1]},
)
def every_block_has_all_steps(code: Code) -> Context:
    """The steps are not shared out among the blocks, so that each commits fewer."""
    return rule(code, "steps = steps * num_blocks", after="steps")


@planted("schedule", at=NUMBERS, into=SPARSE)
def at_least_one_a_step(code: Code) -> Context:
    """Where the schedule has none for a step, one is committed."""
    if code.base.name == "dream":
        one = "number_transfer_tokens = max(1, number_transfer_tokens)"
        return rule(code, one, after="number_transfer_tokens")
    name = "number_transfer_tokens_per_sample"
    return rule(code, f"{name} = {name}.clamp_min(1)", after=name)


@planted("schedule", at=NUMBERS, into=DREAM)
def cosine_for_linear(code: Code) -> Context:
    """Times fall by a cosine, not evenly."""
    cosine = "timesteps = torch.cos((1 - timesteps) * torch.pi / 2)"
    return rule(code, cosine, after="timesteps")


@planted(
    "region-boundaries",
    "commit-rule",
    at=PARTED,
    into={"llada": batch(fixed("generate"))},
)
def quota_of_the_wholebatch(code: Code) -> Context:
    """The best masks of all requests share one quota."""
    share = """
    best = confidence.flatten().topk(int(num_transfer_tokens[:, i].sum())).indices
    of_request = best // confidence.shape[1]
    num_transfer_tokens[:, i] = torch.bincount(of_request, minlength=len(confidence))
    """
    return rule(code, share, after="confidence")


# --- when it stops --------------------------------------------------------------------------------


@planted(
    "stop-rule",
    at=STAYS,
    into={"dinfer": batch(sure("plain"))[1:] + batch(sure("dual"))},
    request=1,
)
def left_when_the_first_is_done(code: Code) -> Context:
    """A block is left as soon as the first request of the batch has no mask in it."""
    done = """
    if not (block[0] == decoder.mask_id).any():
        break
    """
    return code.insert("loop.BlockRunner.decode", done, after="block", nth=-1)


@planted(
    "stop-rule",
    at=Truth(last_step, where=anywhere),
    into={"dinfer": sure("plain", ending=True)},
)
def filled_with_ends(code: Code) -> Context:
    """What is right of a block with an end is filled with ends."""
    fill = "orig_x[eos_idx, block_loc.end:] = decoder.eos_id"
    return code.insert("loop.BlockRunner.decode", fill, after="eos_idx")


@planted("stop-rule", at=STAYS, into={"sdar": sure("dynamic", block_length=8, ending=True)[:1]})
def block_of_an_end_stays_masked(code: Code) -> Context:
    """A block is left as soon as one of its tokens is an end."""
    leave = f"""
    if (cur_x == {code.eos_id}).any():
        break
    """
    return rule(code, leave, after="cur_x", nth=-1)


# --- where ----------------------------------------------------------------------------------------


@planted(
    "region-boundaries",
    at=NUMBERS,
    into={"dllm": tuple(replace(j, prompts=(FIRST, SECOND[:4])) for j in fixed("mdlm"))},
    request=1,
)
def blocks_begin_at_the_longest_prompt(code: Code) -> Context:
    """Blocks of a short prompt begin where those of the longest one do."""
    longest = "prompt_lens = [max(prompt_lens)] * len(prompt_lens)"
    return rule(code, longest, after="num_blocks")


@planted(
    "commit-rule",
    "scattered-tokens",
    at=Truth(parted, where=candidates),
    into={"dinfer": sure("vicinity", prefix_look=2, after_look=3)},
)
def logits_of_the_window_one_off(code: Code) -> Context:
    """The rows of the block are taken out of the window's logits one too far to the left."""
    where = "loop.VicinityCacheIteration.forward"
    return code.insert(where, "offset -= 1", after="offset")


@planted(
    "scattered-tokens",
    "commit-rule",
    at=Truth(PARTIAL, where=candidates),
    into={"dkv-cache": fixed("decode")},
)
def rows_go_back_to_their_neighbours(code: Code) -> Context:
    """Tokens of the rows that are left are put back one row off."""
    return rule(code, "reorder_token_idx = reorder_token_idx.roll(1, 1)", after="reorder_token_idx")


@planted(
    "other-inputs",
    at=Truth(from_forward(1)),
    into={"dinfer": sure("dual")},
)
def model_sees_the_block_of_before(code: Code) -> Context:
    """A cached step is given the ids of its block as they were a step before, as from a copy."""
    seen = list[Tensor]()

    def late(call: Call) -> None:
        ids, rows = call.args[0], call.kwargs.get("replace_position")
        if rows is None:
            seen[:] = [ids.clone()]
        else:
            (canvas,) = seen
            call.args[0] = canvas[:, rows[0] : rows[1]].clone()
            canvas[:, rows[0] : rows[1]] = ids

    return code.calls(late)
