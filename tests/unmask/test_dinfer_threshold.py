"""dInfer's threshold against a literal loop."""

from __future__ import annotations

from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone import Settings
from skipstone.blocks import Block
from skipstone.canvas import Canvas
from skipstone.unmask import DinferThreshold, Scores
from tests.conftest import context_at

confidences = st.lists(st.sampled_from([-inf, 0.1, 0.3, 0.31, 0.5, 0.9]), min_size=1, max_size=12)
policies = st.builds(
    DinferThreshold, st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.sampled_from([0.0, 0.015, 0.3, 1.0])
)


def chosen(policy: DinferThreshold, *rows: list[float]) -> list[list[int]]:
    sure = torch.tensor(rows, dtype=torch.float64)
    canvas = Canvas.start([[1]] * len(rows), sure.shape[1], 0, torch.device("cpu"))
    context = context_at(canvas, Block(0, 0, canvas.gen_length), 0, 1)
    picked_BG = policy.select(Scores(torch.zeros_like(sure, dtype=torch.int64), sure), context)
    return [row_G.nonzero()[:, 0].tolist() for row_G in picked_BG]


@settings(deadline=None, derandomize=True, max_examples=300)
@given(confidences, policies)
def test_it_is_the_literal_rule(row: list[float], policy: DinferThreshold) -> None:
    bar = min(policy.value, max(row) - policy.slack)
    wanted = [i for i, c in enumerate(row) if c >= bar and c != -inf]
    assert chosen(policy, row) == [wanted]
    # Beside another request, whose best is not its own.
    assert chosen(policy, [0.95] * len(row), row)[1] == wanted


def test_the_best_goes_and_what_is_about_as_good() -> None:
    row = [0.5, 0.5 - 5e-6, 0.5 - 2e-5]
    assert chosen(DinferThreshold(), row) == [[0, 1]]
    assert chosen(DinferThreshold(slack=0.0), row) == [[0]]
    # Where one reaches the threshold, what is about as good does not go with it.
    assert chosen(DinferThreshold(0.5), [0.6, 0.5 - 5e-6]) == [[0]]


@pytest.mark.parametrize("wrong", ["value=1.5", "slack=-0.1", "slack=nan"])
def test_values_out_of_their_range_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"dinfer_threshold {wrong.partition('=')[0]}"):
        Settings(unmask=f"dinfer_threshold:{wrong}")
