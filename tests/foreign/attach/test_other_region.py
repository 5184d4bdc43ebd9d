"""Blocks that begin too late for a prompt, as where a batch takes those of its longest one."""

from __future__ import annotations

import pytest
import torch

import skipstone as st
from skipstone.foreign.attach.attached import Attached
from tests.foreign.attending_net import MASK, START, Made, Net

BLOCK, BLOCKS = 6, 3


def recorded(late: int = 0, steps: int = BLOCK) -> Attached:
    """One token a step; what a block may commit ends ``late`` positions behind it."""
    net = Net(Made())
    canvas = torch.full((1, START + BLOCK * BLOCKS), MASK)
    canvas[0, :START] = torch.arange(START)
    stated = {"block_length": BLOCK}
    with st.attach(net, mask_id=MASK, level="full", stated=stated) as recorder:
        for block in range(1, BLOCKS + 1):
            for _ in range(steps):
                logits = net(canvas)
                logits[..., MASK] = -torch.inf
                best, token = logits.softmax(-1).max(-1)
                best = torch.where(canvas == MASK, best, -1)
                best[:, START + BLOCK * block + late :] = -1
                at = best.argmax(-1)
                if bool((canvas[0, at] == MASK).all()):
                    canvas[0, at] = token[0, at]
    return recorder


@pytest.mark.parametrize("late", [4, 5])
def test_blocks_that_begin_too_late_are_named(late: int) -> None:
    found = st.diagnose(recorded(), recorded(late))
    assert found.cause is not None
    assert found.cause.rule == "region-boundaries", str(found)
    assert found.cause.what == "B begins behind the block that A begins with"


@pytest.mark.parametrize("steps", [BLOCK - 1, BLOCK - 2])
def test_a_block_that_is_left_early_is_not_taken_for_it(steps: int) -> None:
    found = st.diagnose(recorded(), recorded(steps=steps))
    assert found.cause is None or "begins behind" not in found.cause.what, str(found)
