"""Forwards that only write keys and values: no alarm where one side has none, faults in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

import skipstone
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.foreign.explain.explain import explain
from specimens import blockwise
from tests.foreign.explain.test_horizon import BLOCK, sdar

LOOPS: tuple[Callable[..., Tensor], ...] = (blockwise.sdar, blockwise.windows)


def held_against(
    good: str | Callable[..., Tensor],
    loop: Callable[..., Tensor],
    *,
    gen_length: int = 11,
    **faults: str,
) -> Diagnosis:
    """A loop against another one, or against our engine with a cache."""
    model, net, prompt = sdar()
    bad = lambda: loop(net, prompt, gen_length=10, block_length=BLOCK, **faults)  # noqa: E731
    if not isinstance(good, str):
        other = lambda: good(net, prompt, gen_length=10, block_length=BLOCK)  # noqa: E731
        return explain(net, other, bad, mask_id=model.config.mask_id).diagnosis
    settings = skipstone.Settings(cache=good, unmask="fixed", gen_length=gen_length)
    engine, ids = skipstone.Engine(model, settings), prompt[0].tolist()
    return explain(net, engine, bad, prompt=ids, mask_id=model.config.mask_id).diagnosis


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("good", ["none", "dual", blockwise.sdar, blockwise.windows])
def test_right_code_gives_no_alarm(
    good: str | Callable[..., Tensor], loop: Callable[..., Tensor]
) -> None:
    assert held_against(good, loop).verdict == "same"


@pytest.mark.parametrize("loop", LOOPS)
def test_a_longer_canvas_is_said_and_no_other_cause_is_named(loop: Callable[..., Tensor]) -> None:
    # The last block has one mask more, and which masks are committed there depends on it.
    found = held_against("dual", loop, gen_length=10)
    assert (found.verdict, found.cause) == ("inconclusive", None)
    assert "canvases have 10 and 11 new positions" in str(found.known)


@pytest.mark.parametrize("fault", ["block before", "causal", "tail hidden"])
def test_a_wrong_horizon_is_named_against_an_uncached_loop(fault: str) -> None:
    found = held_against(blockwise.windows, blockwise.sdar, fault=fault)
    assert found.cause is not None
    assert (found.verdict, found.cause.where.layer) == ("visible-set", 1), found


@pytest.mark.parametrize("fault", ["block before", "causal", "tail hidden", "one too far", "whole"])
def test_a_wrong_horizon_is_no_other_fault_against_our_engine(fault: str) -> None:
    found = held_against("dual", blockwise.sdar, fault=fault)
    assert found.verdict in ("visible-set", "inconclusive"), found


@pytest.mark.parametrize("good", LOOPS)
def test_a_block_stored_before_its_last_commit_is_stale(good: Callable[..., Tensor]) -> None:
    found = held_against(good, blockwise.sdar, write="early")
    assert found.cause is not None
    where = found.cause.where
    assert (found.verdict, where.block, where.position) == ("stale-kv", 1, 26), found
