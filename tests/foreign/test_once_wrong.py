"""Calls that were once read wrongly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from skipstone.foreign.attach.attach import attach
from skipstone.foreign.sanitizer.sanitize import sanitize
from tests.foreign.shapes.common import BEGIN, BLOCK, at, canvas_of, pick
from tests.foreign.shapes.conventions import ByMask, ByPositionIds
from tests.foreign.shapes.network import MASK, Cache, Plain


@pytest.mark.parametrize("first", [True, False], ids=["whole canvas first", "rows first"])
def test_rows_with_a_cache_of_any_name_are_no_new_run(first: bool) -> None:
    net, x = ByPositionIds(), canvas_of()
    with torch.no_grad(), attach(net, mask_id=MASK) as recorder:
        if first:
            net(x)
        net(x[:, 4:8], position_ids=torch.arange(4, 8)[None], data_caches=[{}])
    assert len(recorder.traces) == 1
    step = recorder.records[0].steps[-1]
    assert step.rows.tolist() == [4, 5, 6, 7]
    assert recorder.records[0].header.prompt_ids == tuple(x[0, :BEGIN].tolist())
    assert recorder.records[0].header.gen_length == x.shape[1] - BEGIN


def dual(net: ByMask, x: Tensor, *, idle: int, edit: bool = False) -> None:
    """A block in a cache that each call overwrites; some steps commit nothing, or take it back."""
    past, rows = Cache(), slice(BEGIN, BEGIN + BLOCK)
    marked = torch.zeros_like(x, dtype=torch.bool)
    marked[:, rows] = True
    with torch.no_grad():
        net(x, past_key_values=past)
        for step in range(4 + idle):
            logits = net(x[:, rows], past_key_values=past, replace_position=marked)
            token, chosen = pick(logits, x[:, rows], 1)
            if 1 <= step <= idle:
                if edit:
                    x[:, rows] = MASK
                continue
            x[:, rows] = torch.where(chosen, token, x[:, rows])


@pytest.mark.parametrize("edit", [False, True], ids=["commits nothing", "takes it back"])
def test_a_step_that_comes_again_in_a_dual_cache_is_not_called_overwritten(edit: bool) -> None:
    net = ByMask()
    with sanitize(net, mask_id=MASK) as report:
        dual(net, canvas_of(new=BLOCK), idle=2, edit=edit)
    assert "cache_overwritten" not in {event.kind for event in report.events}, report.text()
    with attach(net, mask_id=MASK, sanitize=True) as recorder:
        dual(net, canvas_of(new=BLOCK), idle=2, edit=edit)
    assert "cache_overwritten" not in {event.kind for event in recorder.records[0].events}


def test_a_snapshot_that_shares_its_tensors_is_still_found() -> None:
    net, x = ByMask(), canvas_of(new=BLOCK)
    marked = torch.zeros_like(x, dtype=torch.bool)
    marked[:, BEGIN:] = True
    with torch.no_grad(), sanitize(net, mask_id=MASK) as report:
        past = Cache()
        net(x, past_key_values=past)
        snapshot = dict(past)
        for token, cache in ((5, past), (6, past), (5, snapshot)):
            rows = x[:, BEGIN:].clone()
            rows[:, 0] = token
            net(rows, past_key_values=cache, replace_position=marked)
    assert "cache_overwritten" in {event.kind for event in report.events}


def test_masks_are_left_only_where_the_last_canvas_has_some() -> None:
    """The last canvas is gathered; once with all masks filled, once with two of them left."""
    net = Plain()
    for count, left in ((4, 0), (2, 2)):
        with torch.no_grad(), sanitize(net, mask_id=MASK) as report:
            x = canvas_of(new=BLOCK)
            token, chosen = pick(net(x), x, count)
            torch.stack([x, token], -1).gather(-1, chosen.long()[..., None]).squeeze(-1)
        found = [event.numbers["masks_left"] for event in report.events]
        assert found == ([left] if left else [])


def test_position_ids_that_contradict_the_ids_are_named_by_both() -> None:
    net, x = ByPositionIds(), canvas_of()

    def call() -> None:
        with torch.no_grad():
            net(x, data_caches=[{}])
            net(x[:, 6:10], position_ids=at(slice(5, 9))[None], data_caches=[{}])

    with attach(net, mask_id=MASK) as recorder:
        call()
    (event,) = [e for e in recorder.records[0].events if e.kind == "positions_disagree"]
    assert (event.positions_a[0], event.positions_b[0]) == (6, 5)
    with sanitize(net, mask_id=MASK) as report:
        call()
    assert any("position_ids" in e.message for e in report.events), report.text()
