"""Masks of other people's models are scored as our engine scores them."""

from __future__ import annotations

import pytest
import torch

from skipstone.foreign.attach.forward import _scored
from skipstone.ops import reference

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
    ours, theirs = _scored(logits_CV, MASK), reference.score(logits_CV, MASK, None)
    assert torch.equal(logits_CV, before)
    assert torch.equal(ours.token_N, theirs.token_N)
    torch.testing.assert_close(ours.confidence_N, theirs.confidence_N, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        ours.runner_up_confidence_N, theirs.runner_up_confidence_N, rtol=1e-12, atol=0
    )
    # Among equal runners-up the reference takes any; here it is the lowest id.
    others_CV = logits_CV.double().index_fill(1, torch.tensor([MASK]), -torch.inf)
    others_CV.scatter_(1, ours.token_N[:, None], -torch.inf)
    assert torch.equal(ours.runner_up_N, others_CV.argmax(1))
