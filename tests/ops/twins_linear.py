"""The products of few rows against their twins: run by ``test_kernels`` with TRITON_INTERPRET=1.

On a machine with a GPU: ``python -m pytest tests/ops/twins_linear.py`` runs the compiled kernels.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from skipstone.ops import backend
from skipstone.ops.backend import Mode
from skipstone.ops.model import dispatch, reference, triton_linear
from skipstone.ops.model.triton_linear import Config
from tests.ops.twins import DEVICE, DTYPES, EPS, assert_equal, drawn

SHAPES = [(1, 7, 40), (5, 130, 96), (17, 33, 257), (33, 64, 512), (64, 70, 129)]
"""Rows, outputs and inner width."""
# A card takes 16 bits; so few rows of float32 are computed by the library there.
WIDE_OR_NARROW = DTYPES if DEVICE == "cpu" else [torch.bfloat16, torch.float16]


def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make new memory NaN, so that what a kernel leaves out shows."""

    def new_empty(self: Tensor, *size: int | tuple[int, ...], **options: torch.dtype) -> Tensor:
        shape = size[0] if isinstance(size[0], tuple) else size
        return self.new_full(shape, float("nan"), **options)  # pyrefly: ignore

    def empty_like(x: Tensor) -> Tensor:
        return torch.full_like(x, float("nan"))

    monkeypatch.setattr(Tensor, "new_empty", new_empty)
    monkeypatch.setattr(torch, "empty_like", empty_like)


def close(found: Tensor, twin: Tensor) -> None:
    # Sums in another order; the interpreter also cuts off where a GPU rounds.
    assert not found.isnan().any()
    error = (found.double() - twin.double()).norm() / twin.double().norm()
    assert error < 4 * torch.finfo(twin.dtype).eps
    torch.testing.assert_close(found.double(), twin.double(), rtol=0.1, atol=0.1)


def operands(rows: int, outputs: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = drawn(rows, width, dtype=dtype)
    weight = drawn(outputs, width, dtype=torch.float32, seed=1) * width**-0.5
    return x, weight.to(dtype)


@pytest.mark.parametrize("dtype", WIDE_OR_NARROW)
@pytest.mark.parametrize(("rows", "outputs", "width"), SHAPES)
def test_linear(
    rows: int, outputs: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = operands(rows, outputs, width, dtype)
    poisoned(monkeypatch)
    with backend.served_by("triton"):
        found = dispatch.linear(x, weight)
    close(found, reference.linear(x, weight))


@pytest.mark.parametrize("dtype", WIDE_OR_NARROW)
@pytest.mark.parametrize(("rows", "outputs", "width"), SHAPES)
def test_linear_with_a_bias(
    rows: int, outputs: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = operands(rows, outputs, width, dtype)
    bias = drawn(outputs, dtype=dtype, seed=2)
    poisoned(monkeypatch)
    with backend.served_by("triton"):
        found = dispatch.linear(x, weight, bias)
    close(found, reference.linear(x, weight, bias))
    assert not torch.equal(found, reference.linear(x, weight))


@pytest.mark.parametrize("mode", ["reference", "triton"])
@pytest.mark.parametrize("biased", [False, True])
def test_every_product_takes_a_bias_and_a_scale(mode: Mode, biased: bool) -> None:
    x, into = drawn(5, 40, dtype=torch.float32), drawn(5, 14, dtype=torch.float32, seed=4)
    small = drawn(14, 40, dtype=torch.float32, seed=1).mul(40).round().to(torch.int8)
    scale = drawn(14, dtype=torch.float32, seed=2).abs() / 100
    bias = drawn(14, dtype=torch.float32, seed=3) if biased else None
    norm = drawn(14, dtype=torch.float32, seed=5)
    whole = small.float() * scale[:, None]
    with backend.served_by(mode):
        scaled = [
            dispatch.linear(x, small, bias, scale),
            dispatch.linear_swiglu(x, small, bias, scale),
            dispatch.linear_add(into, x, small, bias, scale),
            *dispatch.linear_add_rms_norm(into, x, small, norm, EPS, bias, scale),
        ]
    plain = [
        reference.linear(x, whole, bias),
        reference.linear_swiglu(x, whole, bias),
        reference.linear_add(into, x, whole, bias),
        *reference.linear_add_rms_norm(into, x, whole, norm, EPS, bias),
    ]
    for found, right in zip(scaled, plain, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", WIDE_OR_NARROW)
@pytest.mark.parametrize(("rows", "outputs", "width"), SHAPES)
def test_linear_swiglu(
    rows: int, outputs: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, gate_up = operands(rows, 2 * outputs, width, dtype)
    poisoned(monkeypatch)
    with backend.served_by("triton"):
        found = dispatch.linear_swiglu(x, gate_up)
    close(found, reference.linear_swiglu(x, gate_up))


@pytest.mark.parametrize("dtype", WIDE_OR_NARROW)
@pytest.mark.parametrize(("rows", "outputs", "width"), SHAPES)
def test_linear_add(
    rows: int, outputs: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, weight = operands(rows, outputs, width, dtype)
    x, norm = drawn(rows, outputs, dtype=dtype, seed=2), drawn(outputs, dtype=dtype, seed=3)
    poisoned(monkeypatch)
    with backend.served_by("triton"):
        alone = dispatch.linear_add(x, given, weight)
        total, normed = dispatch.linear_add_rms_norm(x, given, weight, norm, EPS)
    twin_total, twin = reference.linear_add_rms_norm(x, given, weight, norm, EPS)
    close(alone, twin_total)
    assert_equal(alone, total)
    close(normed, twin)


@pytest.mark.parametrize(
    "config",
    [
        Config(32, 64, 2, splits=3),
        Config(64, 32, 4, splits=16),
        Config(16, 512, 2),
        Config(32, 64, 2, splits=2, tma=True),
    ],
)
@pytest.mark.parametrize("width", [64, 200, 256])
def test_however_a_product_is_cut(
    width: int, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, gate_up = operands(9, 90, width, torch.bfloat16)
    into = drawn(9, 90, dtype=torch.bfloat16, seed=2)
    poisoned(monkeypatch)
    total = triton_linear.linear_add(into, x, gate_up, config=config)
    close(total, reference.linear_add(into, x, gate_up))
    gated = triton_linear.linear_swiglu(x, gate_up, config=config)
    close(gated, reference.linear_swiglu(x, gate_up))


def test_rows_need_not_lie_together() -> None:
    x, weight = operands(6, 20, 96, torch.bfloat16)
    with backend.served_by("triton"):
        assert_equal(dispatch.linear(x[::2], weight), dispatch.linear(x, weight)[::2])


@pytest.mark.parametrize("width", [96, 97])
def test_descriptors_are_left_where_rows_do_not_suit_them(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(triton_linear._CONFIGS["linear", 16], tma=True)
    monkeypatch.setitem(triton_linear._CONFIGS, ("linear", 16), config)
    x, weight = operands(3, 20, width, torch.bfloat16)
    close(triton_linear.linear(x, weight), reference.linear(x, weight))


def test_many_rows_and_none_stay_with_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(triton_linear, "linear")
    with backend.served_by("triton"):
        for rows in (0, 65):
            x, weight = operands(rows, 20, 32, torch.bfloat16)
            assert_equal(dispatch.linear(x, weight), reference.linear(x, weight))
