"""A loop that writes into its prompt goes on with its run, and is told and named for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import skipstone as st
from skipstone.foreign.attach.attached import Attached
from tests.foreign.attending_net import LENGTH, MASK, START, Made, Net

Write = Callable[[Tensor], Tensor]
OTHER = 33


def nothing(canvas: Tensor) -> Tensor:
    return canvas


def in_place(canvas: Tensor) -> Tensor:
    canvas[0, 2] = OTHER
    return canvas


def into_a_copy(canvas: Tensor) -> Tensor:
    return in_place(canvas.clone())


def several(canvas: Tensor) -> Tensor:
    canvas[0, 1:3] = OTHER
    return canvas


def decode(net: Net, write: Write, at: int, first: int = 0) -> None:
    """The most probable token of the canvas first; after ``at`` steps something else is done."""
    canvas = torch.full((1, LENGTH), MASK)
    canvas[0, :START] = torch.arange(first, first + START)
    step = 0
    while bool((canvas == MASK).any()):
        logits = net(canvas)
        logits[..., MASK] = -torch.inf
        best, token = logits.softmax(-1).max(-1)
        where = torch.where(canvas == MASK, best, -1).argmax(-1)
        canvas[0, where] = token[0, where]
        step += 1
        canvas = write(canvas) if step == at else canvas


def recorded(write: Write, at: int) -> Attached:
    net = Net(Made())
    with st.attach(net, mask_id=MASK, level="full") as recorder:
        decode(net, write, at)
    return recorder


@pytest.mark.parametrize("write", [in_place, into_a_copy, several])
@pytest.mark.parametrize("at", [2, 5])
def test_the_run_goes_on_and_the_cause_is_named(write: Write, at: int) -> None:
    good, bad = recorded(nothing, 0), recorded(write, at)
    assert [len(t.records[0].steps) for t in bad.traces] == [LENGTH - START]
    found = st.diagnose(good, bad)
    assert found.cause is not None
    assert found.cause.rule == "commit-rule"
    assert found.cause.what == "B writes over tokens of its prompt, A does not"
    assert f"token {OTHER} over token" in str(found.cause.evidence)
    assert found.cause.where.step == at - 1
    assert st.compare(good, bad).first is not None
    assert "writes over tokens of its prompt" in str(st.explain(good, bad))


def test_in_the_first_step_too() -> None:
    found = st.diagnose(recorded(nothing, 0), recorded(in_place, 1))
    assert found.cause is not None
    assert found.cause.rule == "commit-rule"


def test_where_both_do_so_it_is_no_cause() -> None:
    runs = recorded(in_place, 3), recorded(in_place, 3)
    assert st.diagnose(*runs).verdict == "same"


def test_another_prompt_is_another_run() -> None:
    net = Net(Made())
    with st.attach(net, mask_id=MASK) as recorder:
        decode(net, nothing, 0)
        decode(net, nothing, 0, first=1)
        canvas = torch.full((1, LENGTH), MASK)
        canvas[0, :START] = torch.arange(1, START + 1)
        canvas[0, 0] = OTHER
        net(canvas)
    kinds = {e.kind for t in recorder.traces for e in t.records[0].events}
    assert len(recorder.traces) == 3
    assert "prompt_overwritten" not in kinds
