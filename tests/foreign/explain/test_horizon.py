"""Foreign code that sees block by block: right code is not blamed, a wrong horizon is named."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor

import skipstone
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.foreign.explain.explain import explain
from skipstone.foreign.sanitizer.sanitize import sanitize
from skipstone.models.load import Model
from skipstone.testing import write_checkpoint
from specimens import blockwise, qwen_style

BLOCK = 4
LOOPS: tuple[Callable[..., Tensor], ...] = (blockwise.sdar, blockwise.windows)
SIGHTS = (
    blockwise.block_before,
    blockwise.causal,
    blockwise.one_too_far,
    blockwise.everything,
    blockwise.tail_hidden,
)
AT_HAND = [False, pytest.param(True, marks=pytest.mark.long)]
"""Whether a model of ours is."""


@cache
def sdar() -> tuple[Model, qwen_style.QwenModel, Tensor]:
    """A tiny SDAR of ours, the same as foreign code, and a prompt that ends within a block."""
    with TemporaryDirectory() as folder:
        name = "SDARForCausalLM"
        model = skipstone.load(write_checkpoint(Path(folder), architecture=name), device="cpu")
    assert model.config.reach.block_size == BLOCK
    return model, qwen_style.from_model(model), torch.tensor([model.text.encode("prompt")])


def explained(loop: Callable[..., Tensor], sight: blockwise.Sight, *, at_hand: bool) -> Diagnosis:
    model, net, prompt = sdar()
    way = blockwise.BlockWay.seeing(sight)
    return explain(
        net,
        lambda: loop(net, prompt, gen_length=10, block_length=BLOCK),
        lambda: loop(net, prompt, gen_length=10, block_length=BLOCK, way=way),
        mask_id=model.config.mask_id,
        reference=model if at_hand else None,
    ).diagnosis


@pytest.mark.parametrize("at_hand", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_right_code_gives_no_alarm(loop: Callable[..., Tensor], at_hand: bool) -> None:
    assert explained(loop, blockwise.own_block, at_hand=at_hand).verdict == "same"
    model, net, prompt = sdar()
    with sanitize(net, mask_id=model.config.mask_id) as report:
        loop(net, prompt, gen_length=10, block_length=BLOCK)
    assert report.events == ()


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("at_hand", AT_HAND)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_wrong_horizon_is_named_with_layer_and_position(
    loop: Callable[..., Tensor], at_hand: bool, sight: blockwise.Sight
) -> None:
    found = explained(loop, sight, at_hand=at_hand)
    assert found.cause is not None
    where = found.cause.where
    # Of the first block; or where the prompt ends within its block.
    position = sdar()[2].shape[1] if sight is blockwise.tail_hidden else 0
    assert (found.verdict, where.layer, where.position) == ("visible-set", 1, position), found
