"""Each kernel against its twin at odd sizes: run by ``test_kernels`` with TRITON_INTERPRET=1.

On a machine with a GPU: ``python -m pytest tests/twins.py`` runs the compiled kernels.
"""

from __future__ import annotations

import pytest
import torch

from skipstone import Engine, Fixed, Settings
from skipstone.ops import dispatch, reference
from tests.conftest import random_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16]
EPS = 1e-5


def close(found: torch.Tensor, twin: torch.Tensor) -> None:
    # The twin may round once more than the kernel where it makes a tensor in between.
    step = torch.finfo(twin.dtype).eps
    torch.testing.assert_close(found, twin, rtol=2 * step, atol=2 * step)


def assert_equal(found: torch.Tensor, twin: torch.Tensor) -> None:
    assert torch.equal(found, twin)


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 32), (3, 100), (33, 257), (7, 4096)])
def test_norms(rows: int, width: int, dtype: torch.dtype) -> None:
    x, delta = drawn(rows, width, dtype=dtype), drawn(rows, width, dtype=dtype, seed=1)
    weight = drawn(width, dtype=dtype, seed=2)
    with dispatch.served_by("triton"):
        normed = dispatch.rms_norm(x, weight, EPS)
        total, both = dispatch.add_rms_norm(x, delta, weight, EPS)
    close(normed, reference.rms_norm(x, weight, EPS))
    twin_total, twin = reference.add_rms_norm(x, delta, weight, EPS)
    # The interpreter cuts bfloat16 off where a GPU rounds it.
    close(total, twin_total) if DEVICE == "cpu" else assert_equal(total, twin_total)
    close(both, twin)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (3, 50), (5, 2049)])
def test_swiglu(rows: int, width: int, dtype: torch.dtype) -> None:
    gate_up = drawn(rows, 2 * width, dtype=dtype)
    with dispatch.served_by("triton"):
        found = dispatch.swiglu(gate_up)
    close(found, reference.swiglu(gate_up))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "heads", "width"), [(1, 1, 8), (3, 17, 24), (5, 40, 128)])
def test_rotation(rows: int, heads: int, width: int, dtype: torch.dtype) -> None:
    # A slice of a wider tensor, as queries and keys are.
    x = drawn(rows, heads + 3, width, dtype=dtype)[:, :heads]
    table = reference.rotary_tables(300, width, 10000.0, torch.device(DEVICE))
    angles = table[:, torch.arange(rows, device=DEVICE) * 50]
    with dispatch.served_by("triton"):
        found = dispatch.rotate(x, angles)
    close(found, reference.rotate(x, angles))


@pytest.mark.skipif(DEVICE != "cpu", reason="tests/test_cuda.py runs the kernels in whole runs")
def test_a_run_with_kernels_gives_the_tokens_of_the_reference() -> None:
    model = random_model(1, dtype=torch.float32)
    engine = Engine(model, Settings(gen_length=8, block_length=4, unmask=Fixed()))
    plain = engine.generate([5, 6, 7])
    with dispatch.served_by("triton"):
        assert engine.generate([5, 6, 7]).tokens == plain.tokens


def test_what_no_kernel_computes_stays_with_the_reference() -> None:
    with dispatch.served_by("triton"):
        assert dispatch.refusal(torch.zeros(1, dtype=torch.float64)).startswith("no kernel")
        assert dispatch.refusal(torch.zeros(1, dtype=torch.bfloat16)) == ""
    with dispatch.served_by("reference"):
        assert dispatch.refusal(torch.zeros(1)) == "kernels are switched off"
    if DEVICE == "cpu":
        assert dispatch.refusal(torch.zeros(1)) == "kernels need a CUDA device"
