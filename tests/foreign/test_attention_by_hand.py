"""Attention that is written out is recorded as torch's own is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.diagnosis.attention.call import read
from skipstone.errors import ForeignCodeWarning
from tests.foreign import by_hand
from tests.foreign.attending_net import Attend, Made, recorded, why
from tests.foreign.by_hand import WRITTEN

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
