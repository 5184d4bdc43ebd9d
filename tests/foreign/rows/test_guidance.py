"""Which scale of guidance a loop uses, read from both halves of its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import diagnose
from skipstone.foreign.attach.attach import attach
from skipstone.record import MemoryTrace, Tap
from skipstone.testing.tiny import EOS, MASK, tiny_model
from specimens import bare

NET = bare.from_model(tiny_model())
PROMPT, NEW, BLOCK = [3, 1, 4, 1, 5], 16, 8

Calls = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Logits of a canvas, and of the same one with its prompt hidden."""


def one_batch(canvas: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    with_prompt, without = NET(torch.cat([canvas, hidden])).chunk(2)
    return with_prompt, without


def hidden_first(canvas: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    without = NET(hidden)
    return NET(canvas), without


def hidden_last(canvas: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    return NET(canvas), NET(hidden)


def decoded(calls: Calls, scale: float, *, swapped: bool = False) -> MemoryTrace:
    """One prompt, two masks a step, the most probable first."""
    canvas = torch.tensor([PROMPT + [MASK] * NEW])
    given = canvas != MASK

    def steps() -> Iterator[Tensor]:
        for start in range(len(PROMPT), len(PROMPT) + NEW, BLOCK):
            region = torch.zeros_like(given)
            region[:, start : start + BLOCK] = True
            while (region & (canvas == MASK)).any():
                yield region & (canvas == MASK)

    watcher = attach(
        NET, mask_id=MASK, eos_id=EOS, level="full", stated={"block_length": BLOCK, "guide": scale}
    )
    with torch.no_grad(), watcher:
        for open_ in steps():
            c, u = calls(canvas, torch.where(given, MASK, canvas))
            c, u = (u, c) if swapped else (c, u)
            best = (u + (scale + 1) * (c - u)).softmax(-1).max(-1)
            chosen = best.values.masked_fill(~open_, -1.0).topk(2).indices
            canvas.scatter_(1, chosen, best.indices.gather(1, chosen))
    return watcher.trace


@pytest.mark.parametrize("calls", [one_batch, hidden_first, hidden_last])
def test_logits_of_both_halves_are_recorded_in_every_step(calls: Calls) -> None:
    trace = decoded(calls, 1.5)
    for step in trace.records[0].steps:
        taps = {k.tap for k in trace.keys(0) if k.forward == step.forward}
        assert {Tap.LOGITS, Tap.UNGUIDED} <= taps


@pytest.mark.parametrize("calls", [one_batch, hidden_first, hidden_last])
def test_another_scale_is_named_with_both(calls: Calls) -> None:
    found = diagnose(Case(decoded(calls, 1.5), decoded(calls, 0.25)))
    assert found.cause is not None
    assert found.cause.rule == "commit-rule"
    assert "B guides with scale" in found.cause.what
    assert "guidance of scale" in found.cause.evidence


def test_halves_that_are_swapped_are_named() -> None:
    good, bad = decoded(one_batch, 1.5), decoded(one_batch, 1.5, swapped=True)
    found = diagnose(Case(good, bad))
    assert found.cause is not None
    assert found.cause.rule == "commit-rule"


@pytest.mark.parametrize("calls", [hidden_first, hidden_last])
def test_one_scale_is_one_rule_in_one_batch_and_in_two_calls(calls: Calls) -> None:
    case = Case(decoded(one_batch, 1.5), decoded(calls, 1.5))
    assert case.loops.difference is None
