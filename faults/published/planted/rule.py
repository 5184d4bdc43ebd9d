"""Faults of the commit rule: which masks become tokens, which tokens, and how many."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from faults.published.code import Code, Job
from faults.published.fault import planted
from faults.published.jobs import both, fixed, sure
from faults.truth import ALWAYS, Truth, candidates, parted

PARTED = Truth(parted, where=candidates)
_RULE = "generate.get_transfer_index"


@planted("confidence-dtype", at=PARTED, into={"fast-dllm": fixed("dual", sharp=True)})
@contextmanager
def confidence_in_bfloat16(code: Code) -> Generator[None]:
    """The softmax behind the confidence is taken in bfloat16."""
    with code.insert(_RULE, "p = torch.softmax(logits.bfloat16(), -1).double()", after="p"):
        yield


@planted("commit-rule", at=PARTED, into={"fast-dllm": both("dual")})
@contextmanager
def softmax_over_positions(code: Code) -> Generator[None]:
    """The softmax runs over the positions, not over the vocabulary."""
    with code.insert(_RULE, "p = torch.softmax(logits.double(), 1)", after="p"):
        yield


@planted("region-boundaries", "commit-rule", at=PARTED, into={"fast-dllm": sure("plain")})
@contextmanager
def commits_beyond_the_block(code: Code) -> Generator[None]:
    """Masks right of the block may be committed, too."""
    with code.insert("generate.generate", "mask_index = x == mask_id", after="mask_index", nth=-1):
        yield


@planted("schedule", at=PARTED, into={"fast-dllm": fixed("dual")[:1] + fixed("plain")[:1]})
@contextmanager
def remainder_at_the_wrong_end(code: Code) -> Generator[None]:
    """Where masks do not divide by steps, the last steps commit one more, not the first."""

    def make(quota: Any) -> Any:
        def wrong(mask_index: Tensor, steps: int) -> Tensor:
            return quota(mask_index, steps).flip(1)

        return wrong

    with code.change("generate.get_num_transfer_tokens", make):
        yield


def _other_mask(job: Job) -> Job:
    return replace(job, options=(*job.options, ("mask_id", 100)))


@planted(
    "commit-rule: mask",
    "other-inputs: mask",
    at=Truth(ALWAYS),
    into={"fast-dllm": both("dual")},
    settings=_other_mask,
)
def another_mask_id(code: Code) -> nullcontext[None]:
    """The loop fills the canvas with an id that is not the mask of the configuration."""
    return nullcontext()


@planted("commit-rule", at=PARTED, into={"fast-dllm": both("dual", ending=True)})
@contextmanager
def eos_suppressed(code: Code) -> Generator[None]:
    """EOS is never chosen."""
    never = f"""
    logits_with_noise = logits_with_noise.clone()
    logits_with_noise[..., {code.eos_id}] = -torch.inf
    """
    with code.insert(_RULE, never, after="logits_with_noise"):
        yield


@planted("commit-rule", at=PARTED, into={"fast-dllm": both("plain")})
@contextmanager
def logits_shifted_by_one(code: Code) -> Generator[None]:
    """The logits of the position to the left are taken, as for another family of models."""
    shift = "logits = torch.cat([logits[:, :1], logits[:, :-1]], 1)"
    with code.insert("generate.generate", shift, after="logits"):
        yield


@planted("reveal-order", at=PARTED, into={"fast-dllm": fixed("dual")})
@contextmanager
def random_order(code: Code) -> Generator[None]:
    """Masks are committed in random order, not the most confident first."""
    with code.insert(_RULE, "x0_p = torch.rand(x0_p.shape).to(x0_p)", after="x0_p", nth=0):
        yield


@planted("over-parallel", "commit-rule: threshold", at=PARTED, into={"fast-dllm": sure("dual")})
@contextmanager
def another_threshold(code: Code) -> Generator[None]:
    """Another threshold than the one that was passed decides."""
    lower = "threshold = None if threshold is None else threshold * 0.7"
    with code.insert(_RULE, lower, after="x0", nth=0):
        yield
