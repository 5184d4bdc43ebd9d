"""What attention is given, recorded from outside, tells faults of a forward apart without a model.

Shape letters: B batch, L positions, H query heads, G heads of keys and values, W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

# Bound before anything is attached, as many modelling files do.
from torch.nn.functional import scaled_dot_product_attention

import skipstone as st
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.foreign.attach.wanted import AttachLevel
from skipstone.record import OF_ATTENTION, AttentionNumbers, MemoryTrace, Tap, TensorKey, open_trace
from tests.foreign.decode import one_by_one

MASK, LENGTH, START = 50, 20, 6


@dataclass(frozen=True)
class Made:
    """How a net computes attention; every field is one thing that may be wrong."""

    heads: int = 4
    key_heads: int = 2
    shift_queries: int = 0
    shift_keys: int = 0
    stretch: float = 1.0
    base: float = 10000.0
    scale: float | None = None
    window: int | None = None
    hides: tuple[int, ...] = ()
    tiled: bool = False
    rounded: bool = False
    rounded_turn: bool = False
    lost_bias: bool = False
    drops: int | None = None


class Layer(nn.Module):
    """Attention and nothing else."""

    def __init__(self, made: Made, width: int) -> None:
        super().__init__()
        self.made = made
        self.each = width // made.heads
        kv = self.each * made.key_heads
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, kv), nn.Linear(width, kv)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        made = self.made
        q, k, v = (
            f(x).unflatten(-1, (-1, self.each)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        if made.lost_bias:
            k = k - self.k.bias.unflatten(0, (-1, self.each))[:, None]
        q, k = self.turned(q, made.shift_queries), self.turned(k, made.shift_keys)
        times = made.heads // made.key_heads
        if made.tiled:
            k, v = k.repeat(1, times, 1, 1), v.repeat(1, times, 1, 1)
        else:
            k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        if made.rounded:
            q, k, v = (t.bfloat16().float() for t in (q, k, v))
        if made.drops is not None:
            left = [j for j in range(k.shape[2]) if j != made.drops]
            k, v = k[:, :, left], v[:, :, left]
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=self.mask(q, k), scale=made.scale)
        return x + self.out(mixed.transpose(1, 2).flatten(2))

    def mask(self, q: Tensor, k: Tensor) -> Tensor | None:
        """True where a key is seen."""
        rows, keys = torch.arange(q.shape[2]), torch.arange(k.shape[2])
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
        if self.made.window is not None:
            seen &= (rows[:, None] - keys).abs() <= self.made.window
        seen[:, list(self.made.hides)] = False
        return None if bool(seen.all()) else seen

    def turned(self, x: Tensor, by: int) -> Tensor:
        """Rotated by position."""
        made, half = self.made, self.each // 2
        rates = made.base ** -(torch.arange(half) / half)
        angles = torch.outer((torch.arange(x.shape[2]) + by) * made.stretch, rates)
        cos, sin = angles.cos(), angles.sin()
        a, b = x[..., :half], x[..., half:]
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        return turned.bfloat16().float() if made.rounded_turn else turned


class Net(nn.Module):
    """Logits [B, L, V] from ids."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Embedding(MASK + 1, 32)
        self.layers = nn.ModuleList(Layer(made, 32) for _ in range(3))
        self.head = nn.Linear(32, MASK + 1)
        self.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def recorded(made: Made, level: AttachLevel = "full") -> MemoryTrace:
    """A decode, recorded from outside."""
    net = Net(made)
    with st.attach(net, mask_id=MASK, level=level) as recorder:
        one_by_one(net, torch.arange(START)[None], LENGTH - START, MASK)
    return recorder.trace


def why(wrong: Made) -> Diagnosis:
    """What is said of a net with one thing wrong; no model is at hand."""
    return st.diagnose(recorded(Made()), recorded(wrong))


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
