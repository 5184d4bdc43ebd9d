"""What the first kernel needs, fetched while weights are read.

Triton reads all of itself before it takes a compiled kernel from its cache: half a second, of which
most can pass beside other reading.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from threading import Thread

import torch

_KERNELS = ("attend", "board", "linear", "rows", "score", "skip")


def fetch(device: torch.device) -> None:
    """Begin to fetch it in the background, if kernels will run on this device."""
    if device.type == "cuda" and find_spec("triton"):
        Thread(target=_fetch, name="skipstone-kernels", daemon=True).start()


def _fetch() -> None:
    # Whoever needs what is missing says so.
    with suppress(Exception):
        for name in _KERNELS:
            import_module(f"skipstone.ops.triton_{name}")
        import_module("triton.runtime.cache").triton_key()
