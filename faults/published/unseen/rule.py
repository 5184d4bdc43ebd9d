"""Faults of the loop's rule: which tokens are committed, how many, in which order, and the end."""

from __future__ import annotations

from dataclasses import replace

from faults.published.code import Code, Context, Job
from faults.published.fault import planted
from faults.published.jobs import fixed, sure
from faults.published.weights import EOS
from faults.truth import Truth, candidates, commits_otherwise, parted
from skipstone.record import RunRecord, StepRecord

_RULES = {
    "fast-dllm": "generate.get_transfer_index",
    "llada": "generate.generate",
    "dllm": "mdlm.MDLMSampler.sample",
    "dllm-fast": "sampler._get_transfer_index",
    "dllm-cache": "generate.generate",
    "d2cache": "generate.sample_tokens",
    "dream": "generate.sample_tokens",
    "open-dllm": "generate.sample_tokens",
    "dinfer": "rule.get_transfer_index_threshold",
}
"""The function in which a code base weighs its candidates."""


def _rule(code: Code, statement: str, *, after: str, nth: int | None = None) -> Context:
    return code.insert(_RULES[code.base.name], statement, after=after, nth=nth)


# --- what the order goes by -----------------------------------------------------------------------


@planted(
    "commit-rule",
    "reveal-order",
    at=Truth(parted, where=candidates),
    into={
        "fast-dllm": fixed("plain")[:1],
        "llada": fixed("plain"),
        "dllm": fixed("plain")[:1],
        "dllm-cache": fixed("cached")[:1],
    },
)
def confidence_of_scaled_logits(code: Code) -> Context:
    """Confidences come from logits that were divided by a temperature, tokens do not."""
    scaled = "p = torch.softmax(logits.to(torch.float64) / 0.35, dim=-1)"
    return _rule(code, scaled, after="p")


@planted(
    "commit-rule",
    "reveal-order",
    at=Truth(parted, where=candidates),
    into={
        "dream": fixed("plain", alg="entropy")[:1],
        "open-dllm": fixed("entropy"),
        "d2cache": fixed("dual", alg="entropy")[:1],
    },
)
def entropy_of_the_two_best(code: Code) -> Context:
    """The entropy is summed over the two most likely tokens only, to save time."""
    nth = {"d2cache": -2}.get(code.base.name, -1)
    two = "best = probs.topk(2, -1).values; confidence = (best * best.log()).sum(-1)"
    return _rule(code, two, after="confidence", nth=nth)


@planted(
    "commit-rule",
    "reveal-order",
    at=Truth(parted, where=candidates),
    into={
        "dream": fixed("plain", alg="topk_margin")[:1],
        "open-dllm": fixed("topk_margin")[:1],
    },
)
def margin_of_the_two_worst(code: Code) -> Context:
    """Probabilities are sorted upwards, so the margin is that of the two least likely tokens."""
    return _rule(code, "sorted_probs = sorted_probs.flip(-1)", after="sorted_probs")


@planted(
    "reveal-order",
    "commit-rule",
    at=Truth(parted, where=candidates),
    into={
        "fast-dllm": fixed("plain")[:1],
        "dllm-fast": fixed("none")[:1],
        "d2cache": fixed("plain")[:1],
    },
)
def left_is_preferred(code: Code) -> Context:
    """The confidence of a position loses a little for every position left of it."""
    if code.base.name == "d2cache":
        left = "scores = scores - 0.03 * torch.arange(scores.shape[1])"
        return code.insert("generate.generate_step", left, after="scores", nth=0)
    left = "confidence = confidence - 0.03 * torch.arange(confidence.shape[1])"
    return _rule(code, left, after="confidence")


@planted(
    "commit-rule",
    "sampler",
    at=Truth(parted, where=candidates),
    into={
        "llada": fixed("plain"),
        "dllm": fixed("plain")[:1],
        "fast-dllm": fixed("plain")[1:],
    },
)
def no_token_twice_in_a_row(code: Code) -> Context:
    """A token that stands to the left of a position is forbidden there, against repetitions."""
    apart = "logits_with_noise = logits_with_noise.scatter(-1, x.roll(1, 1)[..., None], -torch.inf)"
    return _rule(code, apart, after="logits_with_noise")


# --- how many -------------------------------------------------------------------------------------


@planted(
    "schedule",
    at=Truth(parted),
    into={"llada": fixed("plain")[:1], "dllm-cache": fixed("cached")[:1]},
)
def steps_are_not_shared_between_blocks(code: Code) -> Context:
    """Every block gets all the steps: they are not divided by the number of blocks."""
    if code.base.name == "llada":
        return _rule(code, "steps = steps * num_blocks", after="steps")
    return _rule(code, "steps_per_block = steps", after="steps_per_block")


@planted(
    "over-parallel",
    "commit-rule",
    at=Truth(parted, where=candidates),
    into={"fast-dllm": sure("plain")[:1] + sure("dual")[1:], "dllm-fast": sure("none")[:1]},
)
def threshold_falls_with_every_step(code: Code) -> Context:
    """The threshold is made smaller after every step, and never put back."""
    falls = "threshold = threshold * 0.85"
    if code.base.name == "dllm-fast":
        where = "sampler.FastdLLMLLaDASampler.sample"
        return code.insert(where, falls, after="i", nth=1)
    loop = "generate" if code.job.loop == "plain" else "generate_with_dual_cache"
    return code.insert(f"generate.{loop}", falls, after="i", nth=-1)


@planted(
    "commit-rule",
    "schedule",
    "inactive-feature",
    at=Truth(parted, where=candidates),
    into={
        "fast-dllm": sure("dual")[:1],
        "dllm-fast": sure("prefix")[1:],
        "dinfer": sure("dual")[:1],
    },
)
def threshold_against_a_logarithm(code: Code) -> Context:
    """A log-probability is compared with the threshold: only the best position ever passes."""
    name = {"dllm-fast": "conf"}.get(code.base.name, "x0_p")
    return _rule(code, f"{name} = {name}.log()", after=name, nth=0)


# Corrected after the first run: it begins with a step that commits nothing, which is as true.
@planted("schedule", "commit-rule", "no-commit", at=Truth(parted), into={"open-dllm": fixed("p2")})
def path_planning_one_step_late(code: Code) -> Context:
    """The share of tokens that may stay is that of the step before."""
    late = "kappa_t = i / steps"
    return code.insert("generate.MDMGenerationMixin._mdm_sample", late, after="kappa_t")


def _credit(job: Job) -> Job:
    return replace(job, options=(*job.options, ("decoder", "CreditThreshold")))


@planted(
    "commit-rule",
    "other-inputs: decoder",
    at=Truth(parted, where=candidates),
    into={"dinfer": sure("plain")[:1] + sure("dual")[1:]},
    settings=_credit,
)
def decoder_with_credit(code: Code) -> Context:
    """Logits of earlier steps are added up, for another decoder was put in."""
    return code.calls(lambda _: None)


# --- where, and when to end -----------------------------------------------------------------------


@planted(
    "commit-rule",
    "region-boundaries",
    at=Truth(lambda a, b: b.steps[0]),
    into={"sdar": sure("dynamic", block_length=8)},
)
def what_is_decided_competes_again(code: Code) -> Context:
    """Tokens that are no masks any more, prompt included, are candidates in every step."""
    again = "mask_index = torch.ones_like(mask_index)"
    return code.insert("generate.block_diffusion_generate", again, after="logits")


@planted(
    "region-boundaries",
    "commit-rule",
    at=Truth(commits_otherwise),
    into={"d2cache": fixed("plain")[:1] + sure("dual")[:1]},
)
def block_is_one_wider(code: Code) -> Context:
    """The last position of a block is that of the first of the next one."""
    wide = "block_mask[:, block_idx * block_length : (block_idx + 1) * block_length + 1] = True"
    return code.insert("generate.vanilla_generate", wide, after="block_mask", nth=-1)


def _ends(a: RunRecord, b: RunRecord) -> StepRecord | None:
    """Where they part, or the last step where one is the beginning of the other."""
    return parted(a, b) or b.steps[-1]


_TURNS = ((3, 141, EOS, 26, 53, 58, 97, 93, 23),)


@planted(
    "stop-rule",
    at=Truth(_ends),
    into={
        "sdar": tuple(
            replace(job, prompts=_TURNS, options=(("stopping_criteria_idx", (EOS,)),))
            for job in (fixed("static", block_length=8)[0], sure("dynamic", block_length=8)[0])
        )
    },
)
def end_is_looked_for_in_the_prompt(code: Code) -> Context:
    """It ends after the first block, for the prompt has an EOS between two turns."""
    whole = "prompt_length = 0"
    return code.insert("generate.block_diffusion_generate", whole, after="x", nth=-1)
