"""LocalLeap against a literal loop, in batches and as graphs."""

from __future__ import annotations

from math import inf
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone import Engine, Settings, Threshold
from skipstone.blocks import Block
from skipstone.canvas import Canvas
from skipstone.unmask import LocalLeap, Scores
from tests.conftest import context_at
from tests.helpers.watching import LOW, prompt_of, uneven_model

# Few values, so that equal confidences are common; -inf is what may not be committed.
confidences = st.lists(st.sampled_from([-inf, 0.1, 0.4, 0.5, 0.9, 0.95]), min_size=1, max_size=12)
policies = st.builds(
    LocalLeap,
    st.sampled_from([0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.4, 0.5]),
    st.sampled_from([0, 1, 2, 50]),
)


def chosen(policy: LocalLeap, *rows: list[float]) -> list[list[int]]:
    sure = torch.tensor(rows, dtype=torch.float64)
    canvas = Canvas.start([[1]] * len(rows), sure.shape[1], 0, torch.device("cpu"))
    context = context_at(canvas, Block(0, 0, canvas.gen_length), 0, 1)
    picked_BG = policy.select(Scores(torch.zeros_like(sure, dtype=torch.int64), sure), context)
    return [row_G.nonzero()[:, 0].tolist() for row_G in picked_BG]


@settings(deadline=None, derandomize=True, max_examples=300)
@given(confidences, policies)
def test_it_is_the_literal_rule(row: list[float], policy: LocalLeap) -> None:
    masks = [i for i, c in enumerate(row) if c != -inf]
    anchors = [i for i in masks if row[i] >= policy.value]
    wanted = set(anchors) | set(sorted(masks, key=lambda i: (-row[i], i))[:1])
    for i in masks:
        if row[i] >= policy.relaxed and any(abs(i - a) <= policy.radius for a in anchors):
            wanted.add(i)
    assert chosen(policy, row) == [sorted(wanted)]
    # Beside another request, whose anchors are not its own.
    assert chosen(policy, [0.95] * len(row), row)[1] == sorted(wanted)


def test_the_radius_is_inclusive_and_ends_with_the_answer() -> None:
    row = [0.5, 0.5, 0.5, 0.95, 0.5, 0.5, 0.5]
    assert chosen(LocalLeap(0.9, 0.5, 2), row) == [[1, 2, 3, 4, 5]]
    assert chosen(LocalLeap(0.9, 0.5, 2), [0.95, *row[:3]]) == [[0, 1, 2]]
    assert chosen(LocalLeap(0.9, 0.5, 2), [*row[:3], 0.95]) == [[1, 2, 3]]
    # Nothing is near what is no anchor: the best goes alone, the lowest of equal ones.
    assert chosen(LocalLeap(0.99, 0.5, 2), row, [0.5] * 7) == [[3], [0]]


@pytest.mark.parametrize("skip", ["none", LOW])
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_each_gives_alone_what_it_gives_beside_others(
    skip: str, runner: Literal["eager", "graph"]
) -> None:
    model = uneven_model(1)
    given_to = Settings(gen_length=18, block_length=6, eos_stop=False, skip=skip)
    unmasks = [LocalLeap(0.9, 0.4, 1), LocalLeap(0.7, 0.2, 2), Threshold(0.9)] * 2
    prompts = [prompt_of(n, 3 + 2 * n) for n in range(len(unmasks))]
    alone = [
        Engine(model, given_to, unmask=unmask).generate(prompt)
        for unmask, prompt in zip(unmasks, prompts, strict=True)
    ]
    engine = Engine(model, given_to, runner=runner, slots=3)
    handles = [
        engine.submit(prompt, unmask=unmask)
        for unmask, prompt in zip(unmasks, prompts, strict=True)
    ]
    assert [h.result().tokens for h in handles] == [one.tokens for one in alone]
    # Control: less is asked somewhere.
    plain = Engine(model, given_to, unmask=Threshold(0.7)).generate(prompts[1])
    assert alone[1].stats.num_forwards < plain.stats.num_forwards


def test_what_has_no_effect_is_told() -> None:
    assert LocalLeap().idle() == ()
    assert LocalLeap(0.5, 0.75).idle() == ("relaxed=0.75 has no effect: it is not below value",)
    assert "radius=0" in LocalLeap(radius=0).idle()[0]


@pytest.mark.parametrize("wrong", ["value=1.5", "relaxed=-0.1", "relaxed=nan", "radius=-1"])
def test_values_out_of_their_range_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"local_leap {wrong.partition('=')[0]}"):
        Settings(unmask=f"local_leap:{wrong}")
