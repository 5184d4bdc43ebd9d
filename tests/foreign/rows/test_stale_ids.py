"""Calls that are given ids which their loop has gone on from, as from a copy that nobody renews."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipstone import attach, diagnose
from skipstone.foreign.sanitizer.sanitize import sanitize
from skipstone.foreign.shared.calls import read_call, signature_of
from skipstone.record import MemoryTrace
from skipstone.testing.tiny import EOS, MASK
from specimens import decode, hf_style, llada_style
from tests.helpers.watching import uneven_model

PROMPT = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
MODEL = uneven_model(5)
Args = tuple[Any, ...]


def late(_: nn.Module, args: Args, kwargs: dict[str, Any], *, seen: list[Tensor]) -> Any:
    """A cached call gets the ids that the call before was meant to have at its rows."""
    rows, ids = kwargs.get("replace_position"), args[0]
    if rows is None:
        seen[:] = [ids.clone()]
        return args, kwargs
    (canvas,) = seen
    old = canvas[rows][None].clone()
    canvas[rows] = ids[0]
    return (old, *args[1:]), kwargs


def net(*, behind: bool) -> nn.Module:
    found = llada_style.from_model(MODEL)
    if behind:
        found.register_forward_pre_hook(partial(late, seen=[]), with_kwargs=True)
    return found


def recorded(*, behind: bool) -> MemoryTrace:
    model: Any = net(behind=behind)
    with attach(model, mask_id=MASK, eos_id=EOS, level="full") as recorder:
        decode.dual_cache(model, PROMPT)
    return recorder.trace


def test_old_ids_are_named_with_their_positions_and_the_canvas_stays_what_it_is() -> None:
    good, bad = recorded(behind=False), recorded(behind=True)
    first = bad.records[0].steps[0]
    assert first.committed == good.records[0].steps[0].committed
    cause = diagnose(good, bad).cause
    assert cause is not None
    assert (cause.rule, cause.where.block, cause.where.step) == ("other-inputs", 0, 1)
    assert cause.positions == first.committed
    assert "those of the step before" in str(cause.what)
    # A loop that means to be one step behind is so on both sides.
    both = diagnose(bad, recorded(behind=True))
    assert both.verdict == "same"


def test_calls_that_have_the_ids_of_their_canvas_are_not_behind() -> None:
    (record,) = recorded(behind=False).records
    assert "ids_behind" not in {e.kind for e in record.events}


@pytest.mark.parametrize("behind", [False, True])
def test_the_sanitizer_says_so_too(behind: bool) -> None:
    model: Any = net(behind=behind)
    with sanitize(model, mask_id=MASK) as report:
        decode.dual_cache(model, PROMPT)
    events = [e for e in report.events if e.kind == "ids_behind"]
    assert bool(events) == behind
    if events:
        assert events[0].forward == 1
        assert "decode.py:" in events[0].source


class Spoken(nn.Module):
    def forward(self, ids: Tensor, replace_position: Any = None) -> Tensor:
        return ids


@pytest.mark.parametrize("said", [(5, 9), [5, 6, 7, 8], slice(5, 9)])
def test_two_ends_and_a_list_say_where_rows_stand(said: object) -> None:
    ids = torch.zeros(1, 4, dtype=torch.long)
    call = read_call(signature_of(Spoken().forward), (ids,), {"replace_position": said})
    assert call is not None
    assert call.stated is not None
    assert call.stated.positions_BN.tolist() == [[5, 6, 7, 8]]


@pytest.mark.parametrize("seen", ["a part", "the whole"])
@pytest.mark.parametrize("gap", [0, 1, 3])
def test_rows_right_behind_a_cache_stand_there_whatever_their_position_ids_leave_out(
    seen: str, gap: int
) -> None:
    model: Any = hf_style.from_model(MODEL)
    x = torch.full((1, 10), MASK)
    x[:, :7] = PROMPT
    first = x[:, :6] if seen == "the whole" else x[:, :6].clone()
    with attach(model, mask_id=MASK) as recorder, torch.no_grad():
        past = model(first, position_ids=torch.arange(6)[None], use_cache=True).past_key_values
        for _ in range(2):
            places = torch.arange(6 + gap, 10 + gap)[None]
            model(x[:, 6:].clone(), position_ids=places, past_key_values=past)
    (record,) = recorder.records
    events = [e for e in record.events if e.kind == "positions_disagree"]
    assert len(events) == bool(gap)
    assert [step.rows.tolist() for step in record.steps[1:]] == [[6, 7, 8, 9]] * 2


def test_places_that_are_left_out_as_a_whole_block_may_come_later() -> None:
    model: Any = hf_style.from_model(MODEL)
    x = torch.full((1, 12), MASK)
    x[:, :6] = PROMPT[:, :6]
    with attach(model, mask_id=MASK) as recorder, torch.no_grad():
        past = model(x[:, :6].clone(), use_cache=True).past_key_values
        for start in (9, 6):
            places = torch.arange(start, start + 3)[None]
            rows = x[:, start : start + 3].clone()
            model(rows, position_ids=places, past_key_values=past)
    (record,) = recorder.records
    assert not [e for e in record.events if e.kind == "positions_disagree"]
