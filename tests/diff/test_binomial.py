"""Exact intervals and the sign test, held against scipy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from skipstone.diff.binomial import interval, sign_test

TOTALS = (1, 2, 3, 10, 31, 100, 1000, 4321, 100_000, 10_000_000)


def clopper_pearson(count: int, total: int, confidence: float) -> tuple[float, float]:
    """By the quantiles of the beta distribution, which is another way than ours."""
    doubt = (1 - confidence) / 2
    low = beta.ppf(doubt, count, total - count + 1) if count else 0.0
    high = beta.ppf(1 - doubt, count + 1, total - count) if count < total else 1.0
    return float(low), float(high)


@pytest.mark.parametrize("confidence", [0.1, 0.5, 0.9, 0.95, 0.975, 0.99, 0.999999])
@pytest.mark.parametrize("total", TOTALS)
def test_the_interval_is_clopper_pearson(total: int, confidence: float) -> None:
    for count in {0, 1, 2, total // 1000, total // 100, total // 3, total - 1, total}:
        if 0 <= count <= total:
            expected = clopper_pearson(count, total, confidence)
            found = interval(count, total, confidence)
            assert found == pytest.approx(expected, rel=1e-7, abs=1e-13), count


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.data(), st.integers(1, 3000), st.floats(0.01, 0.9999))
def test_any_count_agrees_with_scipy(data: st.DataObject, total: int, confidence: float) -> None:
    count = data.draw(st.integers(0, total))
    found = binomtest(count, total).proportion_ci(confidence, method="exact")
    assert interval(count, total, confidence) == pytest.approx((found.low, found.high), abs=1e-9)


def test_the_rule_of_three() -> None:
    # Nothing seen in n draws: the upper end solves (1 - p)^n = doubt.
    low, high = interval(0, 300, 0.95)
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 300), rel=1e-12)


@pytest.mark.parametrize("one", [0, 1, 2, 7, 30, 400])
@pytest.mark.parametrize("other", [0, 1, 2, 7, 31, 1000])
def test_the_sign_test_is_that_of_scipy(one: int, other: int) -> None:
    expected = float(binomtest(one, one + other).pvalue) if one + other else 1.0
    assert sign_test(one, other) == pytest.approx(expected, rel=1e-9)
