"""Numbers that differ do not look the same: one rule, in terminals and on pages."""

from __future__ import annotations

import math
from random import Random

import pytest

from skipstone.digits import told_apart

CASES = [
    ([0.99999969, 0.9999999], ["1 - 3.1e-7", "1 - 1e-7"]),
    ([1.0, 1 - 1e-12, 1.0000001], ["1", "1 - 1e-12", "1 + 1e-7"]),
    ([0.999992, 0.999995], ["0.999992", "0.999995"]),
    # A confidence just below its bound.
    ([0.8999999, 0.9], ["0.8999999", "0.9"]),
    ([0.99, 0.99, 0.5], ["0.99", "0.99", "0.5"]),
    ([1 / 3, 1 / 3 + 1e-9, 2 / 3], ["0.333333333", "0.333333334", "0.666667"]),
    ([0.0, 1e-7, 0.00005, 0.0001], ["0", "1e-7", "5e-5", "0.0001"]),
    ([1234567.0, -0.25], ["1234567", "-0.25"]),
]
"""Numbers, and how they are written beside each other."""


def crowd(random: Random) -> list[float]:
    """Numbers near 1, near each other and near 0."""
    base = random.random()
    near = [1 - 10 ** -random.uniform(0, 16), base, base * (1 + 10 ** -random.uniform(3, 15))]
    return [*near, 10 ** -random.uniform(0, 20), 1.0]


@pytest.mark.parametrize(("values", "texts"), CASES)
def test_as_few_digits_as_tell_apart(values: list[float], texts: list[str]) -> None:
    assert told_apart(values) == texts


def test_what_is_not_there_and_what_is_no_number() -> None:
    assert told_apart([None, math.nan, math.inf, 0.5]) == ["-", "nan", "inf", "0.5"]


def test_numbers_look_the_same_only_if_they_are() -> None:
    random = Random("digits")
    for _ in range(2000):
        values = crowd(random)
        texts = told_apart(values, random.choice((2, 6, 7)))
        assert len(set(texts)) == len(set(values)), (values, texts)
        for value, text in zip(values, texts, strict=True):
            read = eval(text)  # "1 - 3e-7" is Python, too
            assert read == pytest.approx(value, rel=0.06), (value, text)
