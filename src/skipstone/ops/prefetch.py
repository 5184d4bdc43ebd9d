"""What the first step on a GPU needs, fetched while weights are read.

Triton reads all of itself before it takes a compiled kernel from its cache, and cuBLAS loads
kernels of its own: most of a second, which can pass beside other reading.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from threading import Thread

import torch
import torch.nn.functional as F

KERNELS = (
    *(
        f"skipstone.ops.model.triton_{name}"
        for name in ("attend", "experts", "linear", "router", "rows")
    ),
    *(f"skipstone.ops.decide.triton_{name}" for name in ("board", "score", "skip")),
)
_fetching: list[Thread] = []


def fetch(device: torch.device) -> None:
    """Begin to fetch it in the background, if kernels will run on this device."""
    if device.type == "cuda" and find_spec("triton"):
        for work in (_fetch_triton, partial(_fetch_cublas, device)):
            thread = Thread(target=work, name="skipstone-kernels", daemon=True)
            thread.start()
            _fetching.append(thread)


def wait() -> None:
    """Wait until it is there: whoever asks for it meanwhile would read it once more."""
    while _fetching:
        _fetching.pop().join()


def _fetch_triton() -> None:
    # Whoever needs what is missing says so.
    with suppress(Exception):
        import_module("triton.runtime.cache").triton_key()
        for name in KERNELS:
            import_module(name)
        # The first kernel of a process imports it, wherever it comes from.
        import_module("triton.experimental.gluon")


def _fetch_cublas(device: torch.device) -> None:
    with suppress(Exception), torch.inference_mode():
        x_KK = torch.zeros(16, 16, device=device, dtype=torch.bfloat16)
        F.linear(x_KK, x_KK)
