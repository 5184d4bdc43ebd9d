"""Masks of other people's models are scored as our engine scores them."""

from __future__ import annotations

import pytest
import torch

from skipstone.foreign.attach.scoring import _scored
from skipstone.ops.decide import reference

MASK = 7


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_it_is_the_reference_in_fewer_passes(dtype: torch.dtype, scale: float) -> None:
    generator = torch.Generator().manual_seed(3)
    # Coarse steps, so that many of the largest are equal.
    logits_CV = (torch.randn(64, 301, generator=generator) * 4).round() / 4 * scale
    logits_CV[:, MASK] = 1e3
    logits_CV = logits_CV.to(dtype)
    before = logits_CV.clone()
    token, confidence, runner_up, second = _scored(logits_CV, MASK)
    theirs = reference.score(logits_CV, MASK, None)
    assert torch.equal(logits_CV, before)
    assert torch.equal(token, theirs.token_N.double())
    torch.testing.assert_close(confidence, theirs.confidence_N, rtol=1e-12, atol=0)
    torch.testing.assert_close(second, theirs.runner_up_confidence_N, rtol=1e-12, atol=0)
    # Among equal runners-up the reference takes any; here it is the lowest id.
    others_CV = logits_CV.double().index_fill(1, torch.tensor([MASK]), -torch.inf)
    others_CV.scatter_(1, token.long()[:, None], -torch.inf)
    assert torch.equal(runner_up, others_CV.argmax(1).double())
