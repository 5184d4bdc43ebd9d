"""The certainty prior of d2Cache: against a literal sum, alone and beside others."""

from __future__ import annotations

from math import exp
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone import Engine, Fixed, Settings
from skipstone.canvas import Canvas
from skipstone.density import certainty_density
from skipstone.diagnosis.diagnose import diagnose
from skipstone.diagnosis.finding import Proof
from skipstone.unmask import Certainty, Entropy, Margin, UnmaskPolicy
from skipstone.unmask.certainty import density_BG
from tests.helpers.recorded import case_of, steps_of
from tests.helpers.watching import BASE, LOW, prompt_of, uneven_model

CPU = torch.device("cpu")
decided = st.lists(st.booleans(), min_size=1, max_size=24)
sigmas = st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.0, 10.0, 1e9])


def literal(known: list[bool], sigma: float) -> list[float]:
    """The part of a Gaussian over what is decided, one term after the other."""
    new = len(known)
    line = [True] * new + known + known[-1:] * new
    there = [at - new for at, one in enumerate(line) if one]
    far = range(-200, 201)
    full = sum(exp(-(d**2) / (2 * sigma**2)) for d in far) if sigma < 20 else 2.5066282746 * sigma
    return [sum(exp(-((at - j) ** 2) / (2 * sigma**2)) for j in there) / full for at in range(new)]


@settings(deadline=None, derandomize=True, max_examples=200)
@given(decided, decided, sigmas)
def test_the_density_is_the_literal_one_to_the_bit_on_host_and_device(
    one: list[bool], other: list[bool], sigma: float
) -> None:
    found = certainty_density(np.array(one), sigma)
    assert found.tolist() == pytest.approx(literal(one, sigma), rel=1e-8, abs=1e-10)
    # Beside another request that is longer or shorter, and a slot that nobody has.
    canvas = Canvas.empty(3, 60, max(len(one), len(other)), 0, CPU)
    for slot, known in enumerate((one, other)):
        canvas.admit(slot, [1] * (3 + slot), [5 if there else 0 for there in known], 0)
    device = density_BG(canvas, sigma)
    assert device[0, : len(one)].tolist() == found.tolist()
    assert device[1, : len(other)].tolist() == certainty_density(np.array(other), sigma).tolist()
    assert device.isfinite().all()


@pytest.mark.parametrize("sigma", [0.3, 2.0, 10.0, 100.0])
def test_it_is_the_same_to_the_bit_in_long_requests(sigma: float) -> None:
    rng = np.random.default_rng(0)
    wanted = [rng.random(length) < 0.4 for length in (595, 64, 700, 7)]
    canvas = Canvas.empty(5, 800, 700, 0, CPU)
    for slot, known in enumerate(wanted):
        canvas.admit(slot, [1] * 7, np.where(known, 5, 0).tolist(), 0)
    device = density_BG(canvas, sigma)
    for slot, known in enumerate(wanted):
        assert device[slot, : len(known)].tolist() == certainty_density(known, sigma).tolist()


def order_of(unmask: UnmaskPolicy) -> list[int]:
    """Positions in the order in which they are committed, in one block."""
    steps = steps_of(BASE.replace(unmask=unmask, block_length=BASE.gen_length))
    return [position for step in steps for position in step.committed]


def test_a_narrow_gaussian_goes_from_left_to_right_and_a_wide_one_by_confidence() -> None:
    assert order_of(Certainty(sigma=0.2)) == sorted(order_of(Certainty()))
    assert order_of(Certainty(sigma=1e9)) == order_of(Fixed())
    assert order_of(Certainty(sigma=3.0)) not in (order_of(Fixed()), sorted(order_of(Fixed())))


def test_a_step_commits_as_many_as_are_asked_for_and_the_last_the_rest() -> None:
    sizes = [len(s.committed) for s in steps_of(BASE.replace(unmask=Certainty(5), block_length=18))]
    assert sizes == [5, 5, 5, 3]


@pytest.mark.parametrize("skip", ["none", LOW])
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_each_gives_alone_what_it_gives_beside_others(
    skip: str, runner: Literal["eager", "graph"]
) -> None:
    model = uneven_model(1)
    given_to = Settings(gen_length=18, block_length=6, eos_stop=False, skip=skip)
    unmasks = [Certainty(2, 1.0), Certainty(threshold=0.1), Certainty(sigma=3.0), Fixed()] * 2
    asked = [
        (prompt_of(n, 3 + 2 * n), unmask, 12 + 6 * (n % 3)) for n, unmask in enumerate(unmasks)
    ]
    alone = [
        Engine(model, given_to, unmask=unmask, gen_length=length).generate(prompt).tokens
        for prompt, unmask, length in asked
    ]
    engine = Engine(model, given_to.replace(gen_length=24), runner=runner, slots=3)
    handles = [
        engine.submit(prompt, unmask=unmask, gen_length=length) for prompt, unmask, length in asked
    ]
    assert [handle.result(60).tokens for handle in handles] == alone


def test_another_width_is_named_as_another_order_and_proved() -> None:
    mine, theirs = (
        BASE.replace(unmask=unmask, block_length=18)
        for unmask in (Certainty(1, 1e9), Certainty(1, 0.2))
    )
    first = diagnose(case_of(mine, theirs)).findings[0]
    assert first.number == 10
    assert first.proof is Proof.NECESSARY_AND_SUFFICIENT


def test_a_number_beside_a_threshold_is_told() -> None:
    assert Certainty(2).idle() == Certainty(threshold=0.3).idle() == ()
    told = ("each=2 has no effect: threshold says how many are committed",)
    assert Certainty(2, threshold=0.3).idle() == Margin(2, 0.3).idle() == told
    assert Entropy(3, 0.3).idle() == ("each=3 has no effect: limit says how many are committed",)


@pytest.mark.parametrize(
    "wrong", ["each=0", "sigma=0", "sigma=-1", "sigma=inf", "threshold=1.5", "threshold=nan"]
)
def test_values_out_of_their_range_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"certainty {wrong.partition('=')[0]}"):
        Settings(unmask=f"certainty:{wrong}")
