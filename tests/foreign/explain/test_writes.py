"""Forwards that only write keys and values: no alarm where one side has none, faults in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

import skipstone
from skipstone.diff import diff
from skipstone.foreign.explain.explain import explain
from skipstone.foreign.explain.explanation import Explanation
from skipstone.report.payload import payload
from skipstone.report.study import study
from specimens import blockwise
from specimens.blockwise import BlockWay
from tests.foreign.explain.test_horizon import BLOCK, sdar

LOOPS: tuple[Callable[..., Tensor], ...] = (blockwise.sdar, blockwise.windows)

RIGHT = BlockWay()


def held_against(
    good: str | Callable[..., Tensor],
    loop: Callable[..., Tensor],
    *,
    gen_length: int = 11,
    way: BlockWay = RIGHT,
) -> Explanation:
    """A loop against another one, or against our engine with a cache."""
    model, net, prompt = sdar()
    bad = lambda: loop(net, prompt, gen_length=10, block_length=BLOCK, way=way)  # noqa: E731
    if not isinstance(good, str):
        other = lambda: good(net, prompt, gen_length=10, block_length=BLOCK)  # noqa: E731
        return explain(net, other, bad, mask_id=model.config.mask_id)
    settings = skipstone.Settings(cache=good, unmask="fixed", gen_length=gen_length)
    engine, ids = skipstone.Engine(model, settings), prompt[0].tolist()
    return explain(net, engine, bad, prompt=ids, mask_id=model.config.mask_id)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("good", ["none", "dual", blockwise.sdar, blockwise.windows])
def test_right_code_gives_no_alarm(
    good: str | Callable[..., Tensor], loop: Callable[..., Tensor]
) -> None:
    assert held_against(good, loop).verdict == "same"


@pytest.mark.parametrize("loop", LOOPS)
def test_a_longer_canvas_is_said_and_no_other_cause_is_named(loop: Callable[..., Tensor]) -> None:
    # The last block has one mask more, and which masks are committed there depends on it.
    found = held_against("dual", loop, gen_length=10).diagnosis
    assert (found.verdict, found.cause) == ("inconclusive", None)
    assert "canvases have 10 and 11 new positions" in str(found.known)


def test_a_longer_canvas_is_compared_where_nobody_has_seen_more_of_it() -> None:
    found = held_against("dual", blockwise.sdar, gen_length=10)
    (limit,) = diff(found.good, found.bad).alignment.limits
    assert limit.startswith("gen_length is 10 and 11: 7 steps saw the same part of the canvas")


@pytest.mark.parametrize("good", ["none", "dual", blockwise.windows])
def test_a_step_has_one_number_wherever_it_is_spoken_of(good: str | Callable[..., Tensor]) -> None:
    # Both runs commit one token a step; B writes its prompt before the first, and each block.
    way = BlockWay(share=lambda a_step, masks: 2 if masks == 2 else a_step)
    found = held_against(good, blockwise.sdar, way=way)
    cause, first = found.diagnosis.cause, diff(found.good, found.bad).decision
    assert cause is not None
    assert first is not None
    place = 0, 1
    assert (cause.where.block, cause.where.step) == place
    assert (first.block, first.step) == place
    assert found.comparison is not None
    assert found.comparison.first == first
    a, b = (trace.records[0].steps for trace in (found.good, found.bad))
    assert [(s.block, s.step) for s in a if s.forward == first.forward_a] == [place]
    assert [(s.block, s.step) for s in b if s.forward == first.forward_b] == [place]
    page = study([found.good, found.bad])
    shown = payload(page)["steps"]
    assert page.first is not None
    assert isinstance(shown, list)
    assert shown[page.first] == {"block": 0, "step": 1, "how": "canvas"}
    # The prompt, and three blocks.
    assert [s["how"] for s in shown].count("writes") == 4
