"""What is worked out from recorded numbers alone: whose rows these are, and on which grid."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch

from skipstone.canvas import Canvas
from skipstone.diagnosis import fit
from skipstone.diagnosis.grids import grid
from skipstone.diagnosis.rules.non_finite import no_numbers
from skipstone.diagnosis.skip_rule import implied_bar
from tests.helpers.recorded import trace_of
from tests.helpers.watching import BASE, LOW
from tests.unmask.recorded_step import step_before


def test_what_a_call_did_not_score_is_no_number_that_broke() -> None:
    canvas = Canvas.start([[1]], 4, 0, torch.device("cpu"))
    # Committed from another row's logits; broken; never scored in this call; sound.
    step = step_before(canvas, [np.nan, np.nan, np.nan, 0.5], 0)
    c = replace(
        step.candidates,
        eligible=np.array([True, True, False, True]),
        runner_up_confidence=np.array([0.1, np.nan, np.nan, 0.1]),
    )
    step = replace(step, candidates=c)
    assert no_numbers(step, foreign=True).tolist() == [False, True, False, False]
    assert no_numbers(step, foreign=False).tolist() == [True, True, True, False]


def test_the_threshold_that_ran_is_recovered_and_only_if_another_was_stated() -> None:
    record = trace_of(BASE.replace(skip=LOW)).records[0]
    assert implied_bar(record) is None
    stated = BASE.replace(skip=replace(LOW, skip_threshold=0.99)).as_text()
    lied = replace(record, header=replace(record.header, settings=stated))
    between = implied_bar(lied)
    assert between is not None
    assert between[0] <= LOW.skip_threshold <= between[1]
    assert between[1] < 0.99


def rows(count: int, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width))


def test_rows_that_were_mixed_up_are_recognised() -> None:
    right, order = rows(12), np.random.default_rng(1).permutation(12)
    match = fit.nearest(right[order], right)
    assert (match.rows.tolist(), match.share) == (order.tolist(), 1.0)
    assert fit.nearest(right * (1 + 1e-5), right).share == 1.0
    assert fit.nearest(rows(12, seed=2), right).share == 0.0


@pytest.mark.parametrize("far", [-2, -1, 1, 3])
@pytest.mark.parametrize("head_width", [8, 16])
def test_a_rotation_is_recovered_in_positions(far: int, head_width: int) -> None:
    half = head_width // 2
    pairs = rows(20, 32).reshape(20, -1, 2, half)
    angle = far * 10000.0 ** (-np.arange(half) / half)
    x, y = pairs[:, :, 0], pairs[:, :, 1]
    turned = np.stack(
        [x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], 2
    )
    wrong, right = turned.reshape(20, 32), pairs.reshape(20, 32)
    found = {w: fit.shift(wrong, right, w) for w in fit.head_widths(32)}
    best = max(found, key=lambda w: found[w][1])
    assert (best, found[best][1]) == (head_width, pytest.approx(1.0))
    assert found[best][0] == pytest.approx(far)
    assert fit.same_length(wrong, right)
    # Control: rows of their own are neither as long nor turned.
    assert not fit.same_length(rows(20, 32, seed=3), right)
    assert fit.shift(rows(20, 32, seed=3), right, head_width)[1] < 0.5


def quantised(values: np.ndarray, bits: int, axis: int | None) -> np.ndarray:
    step = np.abs(values).max(axis=axis, keepdims=True) / (2 ** (bits - 1) - 1)
    return np.round(values / step) * step


@pytest.mark.parametrize("axis", [None, 0, 1], ids=["one scale", "by column", "by row"])
@pytest.mark.parametrize("bits", [4, 8])
def test_steps_of_equal_size_are_recognised(bits: int, axis: int | None) -> None:
    values = rows(24, 32)
    assert grid(quantised(values, bits, axis), "float32") == f"int{bits}"
    assert grid(values, "float32") is None


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_scale_for_each_narrow_head_is_enough_in_any_dtype(bits: int, dtype: str) -> None:
    values = rows(24, 64) * np.exp(rows(24, 64, seed=5) / 2)
    by_head = quantised(values.reshape(-1, 8), bits, 1).reshape(24, 64)
    kind = getattr(ml_dtypes, dtype, dtype)
    assert grid(by_head.astype(kind).astype(np.float64), dtype) == f"int{bits}"
    assert grid(values.astype(kind).astype(np.float64), dtype) is None


def test_a_scale_made_from_more_rows_than_were_recorded_is_found() -> None:
    values = rows(48, 32)
    values[40] *= 4
    assert grid(quantised(values, 8, None)[:24], "float32") == "int8"
    assert grid(quantised(values, 8, 0)[:24], "float32") == "int8"


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("axis", [None, 0, 1], ids=["one scale", "by column", "by row"])
def test_scaled_short_floats_are_recognised(kind: str, axis: int | None) -> None:
    values = rows(24, 32)
    top = float(ml_dtypes.finfo(getattr(ml_dtypes, kind)).max)
    scale = np.abs(values).max(axis=axis, keepdims=True) / top
    short = (values / scale).astype(getattr(ml_dtypes, kind)).astype(np.float64) * scale
    assert grid(short.astype(np.float32).astype(np.float64), "float32") == kind


def test_few_or_equal_values_are_on_no_grid() -> None:
    assert grid(rows(1, 4), "float32") is None
    assert grid(np.ones((24, 32)), "float32") != "int8"
    assert grid(np.where(rows(24, 32) > 0, 1.7, -1.7), "float32") is None


@pytest.mark.parametrize("values", [(), (1.0,), (0.5, 1.0, 2.0, -4.0)])
def test_zeros_constants_and_a_handful_of_values_are_on_no_grid(values: tuple[float, ...]) -> None:
    few = np.zeros((24, 32))
    for i, value in enumerate(values):
        few[i :: len(values) + 1] = value
    assert grid(few, "float32") is None
    assert grid(few, "bfloat16") is None


def test_rows_that_are_almost_equal_are_on_no_grid_but_that_of_their_dtype() -> None:
    random = np.random.default_rng(0)
    row = random.normal(size=(1, 48))
    almost = (row + 0.02 * random.normal(size=(12, 48))).astype(ml_dtypes.bfloat16)
    assert grid(almost.astype(np.float64), "bfloat16") is None
    twice = np.repeat(random.normal(size=(2, 48)).astype(ml_dtypes.bfloat16), 6, axis=0)
    assert grid(twice.astype(np.float64), "bfloat16") is None


def test_an_asymmetric_grid_and_short_floats_are_recognised() -> None:
    values = rows(24, 32) + 3
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    step = (high - low) / 15
    assert grid(np.round((values - low) / step) * step + low, "float32") == "int4"
    for dtype in ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"):
        short = values.astype(getattr(ml_dtypes, dtype, dtype)).astype(np.float64)
        assert grid(short, "float32") == dtype
        # What the run computes in anyway is no rounding.
        assert grid(short, dtype) is None
