"""What attention is given, recorded from outside, tells faults of a forward apart with no model."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import skipstone as st
from skipstone.foreign.attach.wanted import AttachLevel
from skipstone.foreign.attention.by_hand import ByHand
from skipstone.foreign.attention.call import SeenAttention
from skipstone.foreign.shared.functions import Operation
from skipstone.record import OF_ATTENTION, AttentionNumbers, Tap, TensorKey, open_trace
from specimens.decode import one_by_one
from tests.foreign import attending_net
from tests.foreign.attending_net import LENGTH, MASK, START, Made, Net, recorded, why

FAULTS: tuple[tuple[Made, str, str], ...] = (
    (Made(shift_queries=-1), "position-encoding", "queries carry"),
    (Made(shift_keys=2), "position-encoding", "keys carry"),
    (Made(stretch=0.5), "position-encoding", "queries and keys are rotated otherwise"),
    (Made(base=500000.0), "position-encoding", "queries and keys are rotated otherwise"),
    (Made(rounded_turn=True), "position-encoding", "rotated in bfloat16"),
    (Made(scale=0.125), "module-bug", "divided by the width"),
    (Made(scale=0.5), "module-bug", "times A's"),
    (Made(tiled=True), "module-bug", "query heads read other heads"),
    (Made(lost_bias=True), "module-bug", "a bias of keys"),
    (Made(rounded=True), "quantised", "queries, keys and values are rounded"),
    (Made(window=5), "visible-set", "attention sees other keys"),
    (Made(hides=(0, 1)), "visible-set", "attention sees other keys"),
    (Made(drops=7), "visible-set", "attention sees other keys"),
)


@pytest.mark.parametrize(("wrong", "rule", "what"), FAULTS, ids=[what for _, _, what in FAULTS])
def test_a_fault_of_attention_is_named_without_a_model(wrong: Made, rule: str, what: str) -> None:
    found = why(wrong)
    assert found.cause is not None
    assert found.cause.rule == rule, str(found)
    assert what in found.cause.what
    assert (found.cause.where.step, found.cause.where.layer) == (0, 1)


def test_a_claim_says_what_was_computed_again_and_no_more() -> None:
    cause = why(Made(hides=(0, 1))).cause
    assert cause is not None
    assert str(cause.proof) == "consistent"
    assert "B hides keys of positions 0-1 from 20 rows" in cause.evidence
    assert "B's with A's visible set gives A's output" in cause.experiment


def test_equal_nets_have_no_cause() -> None:
    assert why(Made()).verdict == "same"


@pytest.mark.parametrize("level", ["decisions", "sketches"])
def test_nothing_of_attention_is_kept_at_lower_levels(level: AttachLevel) -> None:
    trace = recorded(Made(), level)
    assert not OF_ATTENTION & {key.tap for key in trace.keys(0)}


def test_heads_that_were_repeated_are_recorded_once() -> None:
    trace = recorded(Made())
    key = trace.tensor(0, TensorKey(0, Tap.ATTENDED_KEY, 1))
    row = trace.tensor(0, TensorKey(0, Tap.ATTENTION, 1))
    assert key is not None
    assert row is not None
    numbers = AttentionNumbers.unpack(row.values)
    assert numbers is not None
    assert key.values.shape == (LENGTH, 16)
    assert (numbers.key_heads, numbers.value_heads) == ((0, 0, 1, 1), (0, 0, 1, 1))
    assert numbers.scale == pytest.approx(8**-0.5)


def test_a_mask_that_layers_share_is_recorded_once() -> None:
    trace = recorded(Made(window=3))
    assert [k.layer for k in trace.keys(0) if k.tap is Tap.BIAS and k.forward == 0] == [1]
    row = trace.tensor(0, TensorKey(0, Tap.ATTENTION, 3))
    assert row is not None
    numbers = AttentionNumbers.unpack(row.values)
    assert numbers is not None
    assert numbers.bias_layer == 1


def test_a_trace_on_disk_says_the_same(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.trace", "b.trace")]
    for path, made in zip(paths, (Made(), Made(scale=0.125)), strict=True):
        net = Net(made)
        with st.attach(net, mask_id=MASK, level="full", path=path):
            one_by_one(net, torch.arange(START)[None], LENGTH - START, MASK)
    found = st.diagnose(*map(open_trace, paths))
    assert found.verdict == "module-bug"


def test_recording_changes_no_bit() -> None:
    net = Net(Made(window=3))
    with st.attach(net, mask_id=MASK, level="full"):
        seen = net(torch.full((1, LENGTH), MASK))
    assert torch.equal(seen, net(torch.full((1, LENGTH), MASK)))


@pytest.mark.parametrize(
    "values", [[], [1.0] * 5, [np.nan] * 7, [1, 2, 0, 5, 0, 0, 0], [1, 2, 0, 0, 0, 3, 0]]
)
def test_numbers_that_are_none_are_refused(values: list[float]) -> None:
    assert AttentionNumbers.unpack(np.array([values])) is None


def test_numbers_are_what_was_packed() -> None:
    numbers = AttentionNumbers(0.25, 9, True, 1, 2, (0, 0, 1, 1), (0, 1, 0, 1))
    assert AttentionNumbers.unpack(numbers.pack()) == numbers


def test_a_mode_rests_where_attention_tells_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, looked = list[int](), Counter[int]()
    begin, heard = ByHand.begin, ByHand.heard

    def begins(self: ByHand, batch: int, rows: int) -> None:
        begun.append(1)
        begin(self, batch, rows)

    def hears(self: ByHand, name: str, operation: Operation) -> SeenAttention | None:
        looked[len(begun) - 1] += 1
        return heard(self, name, operation)

    monkeypatch.setattr(ByHand, "begin", begins)
    monkeypatch.setattr(ByHand, "heard", hears)
    trace = recorded(Made())
    layers, calls = trace.records[0].header.num_layers, len(trace.records[0].steps)
    assert layers > 1 < calls
    # All layers of the first call, and of each other the first one.
    first = [*range(layers), *range(layers, layers * calls, layers)]
    assert sorted(looked) == first
    every = {(key.forward, key.layer) for key in trace.keys(0) if key.tap is Tap.QUERY}
    assert len(every) == layers * calls


def test_attention_under_no_known_name_is_heard_in_every_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = recorded(Made())
    function = partial(attending_net.scaled_dot_product_attention)
    monkeypatch.setattr(attending_net, "scaled_dot_product_attention", function)
    held = recorded(Made())
    assert held.keys(0) == named.keys(0)
    for key in named.keys(0):
        a, b = named.tensor(0, key), held.tensor(0, key)
        assert a is not None
        assert b is not None
        assert np.array_equal(a.values, b.values, equal_nan=True)
