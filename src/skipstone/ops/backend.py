"""Who computes an operation: the plain reference, or a Triton kernel with the same signature.

A CPU is served by the reference, and so is a CUDA device without Triton, and every dtype that the
kernels do not know. Kernels read nothing on the host and allocate by shape alone, so a CUDA graph
can capture them.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

Mode = Literal["auto", "reference", "triton"]
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_mode: ContextVar[Mode] = ContextVar("mode", default="auto")


@contextmanager
def served_by(mode: Mode) -> Generator[None]:
    """Within it, ``reference`` switches all kernels off.

    ``triton`` takes them on any device, for tests under Triton's interpreter; what no kernel can
    compute, such as float64, stays with the reference.
    """
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def refusal(x: Tensor) -> str:
    """Why the reference computes on ``x``; empty if a kernel does."""
    if reason := absence(x):
        return reason
    return "" if x.dtype in _DTYPES else f"no kernel computes {x.dtype}"


def absence(x: Tensor) -> str:
    """Why there are no kernels where ``x`` is; empty if there are. Decisions ask no more."""
    mode = _mode.get()
    if mode == "reference":
        return "kernels are switched off"
    if mode == "auto" and not x.is_cuda:
        return "kernels need a CUDA device"
    return "" if _has_triton() else "triton is not installed"


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
