"""Kernels of a layer that start while the kernel before them still runs.

Between two kernels of a stream the card runs empty for a microsecond or more: the programs of one
run out, then those of the next are launched and read their first bytes. From Hopper on, a kernel
may be launched early (CUDA's programmatic dependent launch): its programs take their places as soon
as all programs of the kernel before have allowed it or ended, and themselves wait until that kernel
is complete and what it wrote can be seen.

The rule, for every program of every kernel that is launched with ``options``:

- It calls ``wait_for_inputs`` before it reads or writes anything that a kernel writes, and before
  it returns, however little it has to do.
- Before that it may compute addresses, and ask for weights to be in L2, where nothing goes stale.
  Keys and values of older steps are no weights: the kernel before may write beside them.

A program waits for the kernel before alone. That all earlier ones are complete too follows from
their having waited, every program of them: one that returned without would let its kernel end
before the kernel before it, and the next kernel start too early. Only after its wait does a program
allow the next kernel, so that never more than two overlap.

Kernels that are launched as usual may stand between: they wait for all that came before.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
import triton
import triton.language as tl
import triton.language.extra.cuda as cuda
from torch import Tensor

_allowed: ContextVar[bool] = ContextVar("allowed", default=True)


@contextmanager
def served_early(allowed: bool) -> Generator[None]:
    """Within it, ``False`` lets no kernel start early, for comparison."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


def options(x: Tensor) -> dict[str, bool]:
    """What a kernel on the device of ``x`` takes beside its arguments: ``EARLY`` and the launch."""
    # Backends that know nothing of an early launch refuse the option.
    return {"EARLY": True, "launch_pdl": True} if starts_early(x) else {"EARLY": False}


def starts_early(x: Tensor) -> bool:
    """Whether kernels on the device of ``x`` start early."""
    return x.is_cuda and _allowed.get() and _can_start_early(x.device)


@cache
def _can_start_early(device: torch.device) -> bool:
    # AMD's cards count their capabilities differently, and the interpreter launches nothing.
    interpreted = not isinstance(wait_for_inputs, triton.JITFunction)
    if torch.version.hip is not None or interpreted or not hasattr(cuda, "gdc_wait"):
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def wait_for_inputs(EARLY: tl.constexpr):
    """Wait for the kernel before, where this one started early, and let the next one start."""
    if EARLY:
        # As ``cuda.gdc_wait`` and ``cuda.gdc_launch_dependents``, of which older releases of
        # Triton, which start nothing early, know not even the names.
        tl.inline_asm_elementwise(
            "griddepcontrol.wait; // $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1
        )
        tl.inline_asm_elementwise(
            "griddepcontrol.launch_dependents; // $0",
            "=r",
            [],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
