"""A quota with a threshold: what reaches it is not above it."""

from __future__ import annotations

import pytest
import torch

from skipstone.blocks import Block
from skipstone.canvas import Canvas
from skipstone.unmask import Quota, Scores
from skipstone.unmask.recorded import scores_of
from tests.conftest import context_at
from tests.unmask.recorded_step import step_before


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ([0.5, 0.9, 0.5], [1]),
        ([0.5, 0.9, 0.75], [1, 2]),
        # None is above it: the quota's best goes, and no other that is as good.
        ([0.5, 0.5, 0.25], [0]),
    ],
)
def test_a_threshold_has_to_be_passed(row: list[float], wanted: list[int]) -> None:
    policy = Quota(threshold=0.5)
    canvas = Canvas.start([[1]], len(row), 0, torch.device("cpu"))
    sure = torch.tensor([row], dtype=torch.float64)
    context = context_at(canvas, Block(0, 0, len(row)), 0, 1)
    picked_BG = policy.select(Scores(torch.zeros_like(sure, dtype=torch.int64), sure), context)
    assert picked_BG[0].nonzero()[:, 0].tolist() == wanted
    again_C = policy.replay(scores_of(step_before(canvas, row, 0), 1, len(row)))
    assert again_C.nonzero()[0].tolist() == wanted
