"""Attention that is written out is recorded as torch's own is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skipstone as st
from skipstone.diagnosis.attention.call import read
from skipstone.errors import ForeignCodeWarning
from tests.foreign.attending_net import LENGTH, MASK, START, Attend, Made, Net, fused, recorded, why
from tests.foreign.attention import by_hand
from tests.foreign.attention.by_hand import WRITTEN

WAYS = pytest.mark.parametrize("attend", WRITTEN.values(), ids=WRITTEN)


@WAYS
@pytest.mark.parametrize("window", [None, 5])
def test_what_was_recorded_gives_what_attention_gave(attend: Attend, window: int | None) -> None:
    made = Made(attend=attend, window=window)
    for trace in (recorded(made), recorded(Made(window=window))):
        call = read(trace, 0, 0, 2)
        assert call is not None
        np.testing.assert_allclose(call.computed(), call.mixed_NHW, rtol=1e-4, atol=1e-5)
        assert call.key_heads == (0, 0, 1, 1)
        assert (call.bias_NHK != 0).any() == (window is not None)


@WAYS
def test_the_parts_are_those_of_the_same_attention_fused(attend: Attend) -> None:
    mine = read(recorded(Made(attend=attend, window=5)), 0, 0, 1)
    right = read(recorded(Made(window=5)), 0, 0, 1)
    assert mine is not None
    assert right is not None
    assert mine.scale == pytest.approx(right.scale)
    np.testing.assert_array_equal(mine.query_NHW, right.query_NHW)
    np.testing.assert_array_equal(mine.key_KGW, right.key_KGW)
    np.testing.assert_array_equal(mine.value_KGW, right.value_KGW)
    np.testing.assert_array_equal(mine.bias_NHK < -1e3, right.bias_NHK < -1e3)


FAULTS: tuple[tuple[dict[str, object], str], ...] = (
    ({"shift_queries": -1}, "position-encoding"),
    ({"base": 500000.0}, "position-encoding"),
    ({"scale": 0.125}, "module-bug"),
    ({"lost_bias": True}, "module-bug"),
    ({"rounded": True}, "quantised"),
    ({"window": 5}, "visible-set"),
    ({"hides": (0, 1)}, "visible-set"),
    ({"drops": 7}, "visible-set"),
)


@pytest.mark.parametrize("attend", [by_hand.hugging_face, by_hand.grouped, by_hand.stacked])
@pytest.mark.parametrize(("wrong", "rule"), FAULTS, ids=[str(next(iter(f))) for f, _ in FAULTS])
def test_faults_are_named_however_attention_is_written(
    attend: Attend, wrong: dict[str, object], rule: str
) -> None:
    found = why(Made(attend=attend, **wrong), Made(attend=attend))  # pyrefly: ignore
    assert found.cause is not None
    assert found.cause.rule == rule, str(found)


def capped(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """Scores that are bent by a function that is not followed."""
    scores = torch.tanh(q @ k.mT * scale)
    return torch.softmax(scores, -1) @ v


def appended(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """A sink that takes a share of the weights."""
    scores = q @ k.mT * scale
    scores = torch.cat([scores, torch.zeros(*scores.shape[:-1], 1)], -1)
    return scores.softmax(-1)[..., :-1] @ v


@pytest.mark.parametrize(("attend", "name"), [(capped, "tanh"), (appended, "cat")])
def test_what_cannot_be_followed_is_said_once(attend: Attend, name: str) -> None:
    with pytest.warns(ForeignCodeWarning, match=f"layer 1 .* go through {name},") as said:
        trace = recorded(Made(attend=attend))
    assert len([w for w in said if w.category is ForeignCodeWarning]) == 1
    events = [e for e in trace.records[0].events if e.kind == "attention_not_recorded"]
    assert len(events) == 1


@pytest.mark.parametrize(
    ("scored", "weighed", "what"),
    [
        (torch.bfloat16, torch.bfloat16, "scores of attention are rounded to bfloat16"),
        (torch.float32, torch.bfloat16, "weights of attention are rounded to bfloat16"),
    ],
)
def test_a_softmax_in_another_dtype_is_named(
    scored: torch.dtype, weighed: torch.dtype, what: str
) -> None:
    def rounded(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
        scores = (q @ k.mT * scale).to(scored)
        return scores.float().softmax(-1).to(weighed).to(q.dtype) @ v

    found = why(Made(attend=rounded), Made(attend=by_hand.hugging_face))
    assert found.cause is not None
    assert found.cause.rule == "quantised", str(found)
    assert what in str(found.cause.what)


def test_dropout_that_was_left_on_is_named() -> None:
    def drops(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
        return F.dropout(torch.softmax(q @ k.mT * scale, -1), 0.1, training=True) @ v

    found = why(Made(attend=drops), Made(attend=by_hand.hugging_face))
    assert found.cause is not None
    assert found.cause.rule == "nondeterminism"


def per_head(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """One head after the other."""
    parts = zip(q.split(1, 1), k.split(1, 1), v.split(1, 1), strict=True)
    return torch.cat([by_hand.divided(q, k, v, seen, scale) for q, k, v in parts], 1)


def in_chunks(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """A few rows at a time, as memory allows."""
    parts = []
    for rows in torch.arange(q.shape[2]).split(7):
        mask = None if seen is None else seen[rows]
        parts.append(fused(q[:, :, rows], k, v, mask, scale))
    return torch.cat(parts, 2)


def per_sample(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """One sample after the other."""
    parts = zip(q.split(1), k.split(1), v.split(1), strict=True)
    return torch.cat([by_hand.einsum(q, k, v, seen, scale) for q, k, v in parts])


@pytest.mark.parametrize("attend", [per_head, in_chunks, per_sample])
@pytest.mark.parametrize("window", [None, 5])
def test_calls_that_are_parts_of_one_are_recorded_as_one(
    attend: Attend, window: int | None
) -> None:
    net = Net(Made(attend=attend, window=window))
    ids = torch.full((2, LENGTH), MASK)
    ids[:, :START] = torch.arange(2 * START).view(2, START)
    with st.attach(net, mask_id=MASK, level="full") as recorder:
        net(ids)
    for sample in range(2):
        call = read(recorder.trace, sample, 0, 1)
        assert call is not None
        assert call.positions_N.size == LENGTH
        np.testing.assert_allclose(call.computed(), call.mixed_NHW, rtol=1e-4, atol=1e-5)


def twice(second: float) -> Attend:
    """Rows attend to all keys, and then to the first four."""

    def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
        mixed = by_hand.hugging_face(q, k, v, seen, scale)
        return mixed + by_hand.divided(mixed, k[:, :, :4], v[:, :, :4], None, second)

    return attend


def test_a_fault_of_the_second_attention_of_a_layer_is_named() -> None:
    found = why(Made(attend=twice(0.1)), Made(attend=twice(0.5)))
    assert found.cause is not None
    assert found.cause.rule == "module-bug"
    assert "the scores of attention are 0.2 times A's" in str(found)
    assert "it is call 2 of attention in the layer" in str(found)


@torch.library.custom_op("skipstone_tests::flash_forward", mutates_args=())
def flash_forward(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float, window_size_left: int = -1
) -> tuple[Tensor, Tensor]:
    """A kernel [B, L, H, W] as flash attention has it."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mixed = fused(q, k, v, None, softmax_scale).transpose(1, 2).contiguous()
    return mixed, mixed.new_zeros(1)


def kernel(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """A kernel of somebody else."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return flash_forward(q, k, v, scale)[0].transpose(1, 2)


def a_kernel_of_torch(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """What torch's own attention calls."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return flash(q, k, v, attn_mask=None, scale=scale)[0]


@pytest.mark.parametrize("attend", [kernel, a_kernel_of_torch])
def test_kernels_that_tell_torch_their_arguments_are_heard(attend: Attend) -> None:
    call = read(recorded(Made(attend=attend)), 0, 0, 1)
    assert call is not None
    np.testing.assert_allclose(call.computed(), call.mixed_NHW, rtol=1e-4, atol=1e-5)
    found = why(Made(attend=attend, scale=0.125), Made(attend=attend))
    assert found.cause is not None
    assert found.cause.rule == "module-bug"


class SelfAttention(nn.Module):
    """A part of a layer whose name tells what it does."""

    def forward(self, x: Tensor) -> Tensor:
        weights = (x.unsqueeze(-2) * x.unsqueeze(-3)).sum(-1).softmax(-1)
        return (weights.unsqueeze(-1) * x.unsqueeze(-3)).sum(-2)


def test_attention_that_nobody_hears_is_said() -> None:
    net = Net(Made())
    for layer in net.layers:
        layer.attend = SelfAttention()
        layer.forward = layer.attend.forward  # pyrefly: ignore
    with (
        pytest.warns(ForeignCodeWarning, match="no torch function that computes it was heard"),
        st.attach(net, mask_id=MASK, level="full"),
    ):
        net(torch.full((1, LENGTH), MASK))
