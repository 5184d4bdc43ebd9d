"""Faults of the commit rule: what a candidate is worth, which token it is, what is sure enough."""

from __future__ import annotations

from dataclasses import replace

from faults.published.code import Code, Context
from faults.published.fault import planted
from faults.published.jobs import fixed, sure
from faults.truth import Truth, anywhere, candidates, parted

PARTED = Truth(parted, where=candidates)
ANYWHERE = Truth(parted, where=anywhere)

GENERATE = {"llada": fixed("generate")}
DINFER = {"dinfer": sure("plain")[:1] + sure("dual")[1:]}
SDAR = {"sdar": sure("dynamic", block_length=8)}

# Where each code base turns scores into commits.
_WHERE = {
    "fast-dllm": "generate.get_transfer_index",
    "llada": "generate.generate",
    "dkv-cache": "generate.generate",
    "dllm": "mdlm.MDLMSampler.sample",
    "dllm-fast": "sampler._get_transfer_index",
    "dream": "generate.DreamGenerationMixin._sample",
    "open-dllm": "generate.MDMGenerationMixin._mdm_sample",
    "sdar": "generate.block_diffusion_generate",
    "dinfer": "rule.get_transfer_index_threshold",
}
# Which assignment to the logits is the last one before they are used.
_LOGITS = {"llada": 3, "dllm": 3, "dream": 2, "open-dllm": 1, "sdar": 0}


def rule(code: Code, statement: str, *, after: str, nth: int | None = 0) -> Context:
    """Put a statement into the rule of a code base."""
    return code.insert(_WHERE[code.base.name], statement, after=after, nth=nth)


def _logits(code: Code, statement: str) -> Context:
    """Change the logits that a loop decides by; ``x`` is its canvas."""
    if code.base.name == "dinfer":
        before = "logits = logits.clone()\n" + statement
        again = "\nlogits_with_noise = logits"
        return rule(code, before + again, after="logits_with_noise")
    return rule(code, statement, after="logits", nth=_LOGITS[code.base.name])


# --- what a candidate is worth --------------------------------------------------------------------


@planted("commit-rule", at=ANYWHERE, into={"open-dllm": fixed("p2")})
def nothing_is_masked_again(code: Code) -> Context:
    """Known tokens have an infinite score, so that the rule that masks again never does."""
    never = "full_conf[~mask_index] = float('inf')"
    return rule(code, never, after="full_conf", nth=1)


@planted(
    "commit-rule",
    "reveal-order",
    at=PARTED,
    into={
        "llada": fixed("generate", temperature=0.6),
        "fast-dllm": fixed("dual", temperature=0.6)[:1],
        "dkv-cache": fixed("decode", temperature=0.6)[:1],
    },
)
def confidence_at_the_temperature(code: Code) -> Context:
    """Confidences are those of the logits divided by the temperature of the draw."""
    return rule(code, "p = F.softmax(logits / temperature, -1)", after="p")


@planted(
    "commit-rule",
    "reveal-order",
    at=PARTED,
    into={
        "llada": fixed("generate", temperature=0.8)[:1],
        "dllm": fixed("mdlm", temperature=0.8)[:1],
    },
)
def confidence_of_the_noisy_scores(code: Code) -> Context:
    """Confidences are taken from the scores with the noise of the draw."""
    noisy = "p = logits_with_noise / logits_with_noise.sum(-1, keepdim=True)"
    return rule(code, noisy, after="p")


@planted(
    "reveal-order",
    "commit-rule",
    at=PARTED,
    into={"dkv-cache": fixed("decode")[:1], "llada": fixed("generate")[1:]},
)
def order_by_entropy(code: Code) -> Context:
    """Masks are ordered by the entropy of their row."""
    entropy = "x0_p = (p * p.clamp_min(1e-12).log()).sum(-1)"
    return rule(code, entropy, after="x0_p")


@planted(
    "commit-rule",
    "reveal-order",
    at=PARTED,
    into={"llada": fixed("generate")[:1], "dinfer": sure("plain")},
)
def confidence_among_the_best_four(code: Code) -> Context:
    """The softmax behind the confidence runs over the four best tokens, as after a top-k filter."""
    few = "p = F.softmax(logits.masked_fill(logits < logits.topk(4).values[..., -1:], -1e9), -1)"
    return rule(code, few, after="p", nth=None)


@planted(
    "confidence-dtype",
    at=PARTED,
    into={
        "dkv-cache": fixed("decode", sharp=True)[:1],
        "open-dllm": fixed("maskgit_plus", sharp=True)[:1],
    },
)
def confidence_in_float16(code: Code) -> Context:
    """The softmax behind the confidence is taken in float16."""
    if code.base.name == "open-dllm":
        half = "probs = torch.softmax(logits.half(), -1).float()"
        return code.insert("generate.sample_tokens", half, after="probs")
    return rule(code, "p = F.softmax(logits.half(), -1).to(p)", after="p", nth=None)


@planted("commit-rule", at=PARTED, into={**GENERATE, "fast-dllm": fixed("plain")[:1]})
def scores_of_the_step_before(code: Code) -> Context:
    """A step decides by the logits of the step before, as in a pipeline that is one ahead."""
    late = "logits, kept = (kept if i else logits), logits"
    if code.base.name == "fast-dllm":
        return code.insert("generate.generate", late, after="logits")
    return rule(code, late, after="logits", nth=_LOGITS[code.base.name])


@planted(
    "commit-rule",
    "reveal-order",
    at=PARTED,
    into={
        "dllm-fast": tuple(replace(job, threshold=0.9) for job in sure("none")),
        "dinfer": tuple(replace(job, threshold=0.9) for job in sure("plain")),
    },
)
def leftmost_where_none_is_sure(code: Code) -> Context:
    """Where no mask reaches the threshold, the leftmost one is committed, not the best one."""
    if code.base.name == "dllm-fast":
        return rule(code, "max_idx = mask_index.int().argmax(1, keepdim=True)", after="max_idx")
    leftmost = """
    sure = confidence >= threshold
    first = torch.zeros_like(sure).scatter(1, mask_index.int().argmax(1, keepdim=True), True)
    transfer_index = torch.where(sure.any(1, keepdim=True), sure, first)
    """
    return rule(code, leftmost, after="transfer_index")


@planted(
    "commit-rule",
    at=PARTED,
    into={"dinfer": sure("plain")[:1] + sure("dual")[1:], "dllm-fast": sure("none")[:1]},
)
def logarithm_against_the_threshold(code: Code) -> Context:
    """The logarithm of a probability is compared with the threshold, so that none reaches it."""
    name = "conf" if code.base.name == "dllm-fast" else "x0_p"
    return rule(code, f"{name} = {name}.log()", after=name)


@planted("over-parallel", "commit-rule: threshold", at=PARTED, into=DINFER)
def threshold_sinks_with_each_step(code: Code) -> Context:
    """The threshold is a little lower in each step, as another decoder has it."""
    lower = """
    self.asked = getattr(self, "asked", 0) + 1
    iter_threshold = self.threshold - 0.03 * self.asked
    """
    where = "rule.ThresholdParallelDecoder.decode"
    # Behind the one that is in a branch, and so in a branch that is always taken.
    return code.insert(where, lower, after="iter_threshold", nth=0)


@planted(
    "commit-rule", at=PARTED, into={"sdar": sure("dynamic", block_length=8, denoising_steps=4)}
)
def few_sure_ones_are_enough(code: Code) -> Context:
    """Where at least one mask is sure, the quota of the step is not filled up with the best."""
    enough = "num_high_confidence = num_high_confidence + 99 * (num_high_confidence > 0)"
    return rule(code, enough, after="num_high_confidence")


@planted("commit-rule", at=PARTED, into={"llada": fixed("generate"), "dllm": fixed("mdlm")[:1]})
def known_tokens_compete(code: Code) -> Context:
    """Positions that have a token already take part in the choice, and use up the quota."""
    first = "min(prompt_lens)" if code.base.name == "dllm" else "prompt.shape[1]"
    return rule(code, f"confidence[:, {first}:] = x0_p[:, {first}:]", after="confidence")


# --- which token ----------------------------------------------------------------------------------


@planted(
    "sampler",
    at=PARTED,
    into={
        "llada": fixed("generate", temperature=0.8)[:1],
        "fast-dllm": fixed("dual", temperature=0.8)[1:],
        "dinfer": sure("plain", temperature=0.8)[:1],
    },
)
def one_draw_too_many(code: Code) -> Context:
    """Each step draws one number that nobody uses, so that all later noise is other noise."""
    return rule(code, "torch.rand(1)", after="logits_with_noise")


@planted(
    "commit-rule",
    at=PARTED,
    into={**GENERATE, **DINFER, "sdar": sure("dynamic", block_length=8)[:1]},
)
def vocabulary_cut_short(code: Code) -> Context:
    """The last 60 ids of the matrix are never chosen, as if they were padding of it."""
    return _logits(code, "logits[..., 100:] = -torch.inf")


@planted(
    "commit-rule",
    at=PARTED,
    into={"llada": fixed("generate"), "dream": fixed("whole", alg="maskgit_plus")[:1]},
)
def repetition_penalty_left_on(code: Code) -> Context:
    """Logits of ids that are on the canvas already are made smaller."""
    penalty = """
    seen = torch.zeros(logits.shape[0], logits.shape[-1]).scatter(1, x, 1.0).bool()[:, None]
    logits = torch.where(seen, torch.where(logits > 0, logits / 1.3, logits * 1.3), logits)
    """
    return _logits(code, penalty)


@planted(
    "commit-rule",
    at=PARTED,
    into={
        "dllm": fixed("mdlm"),
        "open-dllm": fixed("maskgit_plus")[:1],
        "dinfer": sure("dual")[:1],
        **SDAR,
    },
)
def one_id_is_favoured(code: Code) -> Context:
    """The logit of one id is raised, as with a bias that was left in the settings."""
    return _logits(code, "logits[..., 57] += 4.0")


@planted("commit-rule", at=PARTED, into={"llada": fixed("generate", cfg_scale=1.5)})
def guidance_by_the_same_prompt(code: Code) -> Context:
    """The half of the batch that should be without the prompt has it, so that nothing is guided."""
    return rule(code, "un_x = x.clone()", after="un_x", nth=-1)
