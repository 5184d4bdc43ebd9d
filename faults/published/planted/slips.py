"""Slips of a commit rule that run through, and leave a plausible answer: rounding, ranks, ids."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from faults.published.code import Code, Context
from faults.published.fault import planted
from faults.published.jobs import fixed, sure
from faults.published.planted.rule import PARTED, in_rule
from faults.truth import Truth, parted

ANY = Truth(parted)


@planted(
    "commit-rule",
    "reveal-order",
    at=PARTED,
    into={"fast-dllm": sure("plain"), "es-dllm": sure("cache")[:1]},
)
def threshold_of_the_margin(code: Code) -> Context:
    """The threshold is held against the margin to the second token, not the probability."""
    margin = """
    top = p.topk(2, -1).values
    x0_p = top[..., 0] - top[..., 1]
    """
    return in_rule(code, margin, after="x0_p", nth=0)


@planted("schedule", at=ANY, into={"llada": fixed("generate")[:1], "fast-dllm": fixed("dual")[:1]})
def quota_rounded_up(code: Code) -> Context:
    """Each step has as many as the first one, until no mask is left."""

    def make(quota: Any) -> Any:
        def wrong(mask_index: Tensor, steps: int) -> Tensor:
            each = -(-mask_index.sum(1, keepdim=True) // steps)
            done = each * quota(mask_index, steps).ne(0).cumsum(1)
            left = mask_index.sum(1, keepdim=True) - (done - each)
            return left.clamp(min=0).minimum(each.expand_as(left))

        return wrong

    return code.change("generate.get_num_transfer_tokens", make)


@planted("commit-rule", at=ANY, into={"llada": fixed("generate")})
def ids_cut_off(code: Code) -> Context:
    """The best token is looked for among the first hundred ids."""
    return in_rule(
        code, "logits_with_noise = logits_with_noise[..., :100]", after="logits_with_noise", nth=0
    )


@planted("commit-rule", at=ANY, into={"llada": fixed("generate"), "fast-dllm": sure("plain")[:1]})
def the_second_best_token(code: Code) -> Context:
    """Each mask gets the second best of its tokens."""
    return in_rule(code, "x0 = logits.topk(2, -1).indices[..., 1]", after="x0", nth=0)


@planted("commit-rule", "reveal-order", at=PARTED, into={"llada": fixed("generate")})
def logits_for_probabilities(code: Code) -> Context:
    """Masks are ordered by the largest logit, which no softmax has made comparable."""
    return in_rule(code, "x0_p = logits.max(-1).values", after="x0_p", nth=0)


@planted("commit-rule", "reveal-order", at=PARTED, into={"llada": fixed("generate")})
def softmax_at_half_the_scores(code: Code) -> Context:
    """A temperature of two flattens the probabilities behind the confidence."""
    return in_rule(code, "p = torch.softmax(logits / 2, -1)")


@planted("commit-rule", at=ANY, into={"llada": fixed("generate")})
def repeated_tokens_penalised(code: Code) -> Context:
    """What stands in the canvas already is less likely to come again."""
    less = """
    seen = torch.zeros_like(logits).scatter(
        2, x[:, None].expand(-1, logits.shape[1], -1), 1.5
    )
    logits = logits - seen
    """
    return code.insert("generate.generate", less, after="logits", nth=3)


@planted("reveal-order", "commit-rule", at=PARTED, into={"dream": fixed("whole", alg="entropy")})
def entropy_with_the_wrong_sign(code: Code) -> Context:
    """The most uncertain masks are committed first."""
    return in_rule(code, "confidence = -confidence", after="confidence")


@planted("schedule", "budget-exhausted", at=ANY, into={"llada": fixed("generate")[:1]})
def one_commit_too_few(code: Code) -> Context:
    """Each step commits one less than is due, but one at least."""
    less = "num_transfer_tokens = (num_transfer_tokens - 1).clamp(min=1)"
    return code.insert("generate.generate", less, after="num_transfer_tokens")
