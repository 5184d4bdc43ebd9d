"""The random numbers of a run up to its first decision: where generators stand, what was drawn.

A loop that has a generator of its own leaves the others where they are; but it calls the functions
of torch that draw.
"""

from __future__ import annotations

from zlib import crc32

import torch
from torch import Tensor

from skipstone.foreign.shared.functions import Operation

NONE_DRAWN = "none"
"""What a record says of a loop that called no function that draws."""

# Functions and methods of torch that draw, by the name they have in both.
_DRAWING = frozenset(
    f"{name}{end}"
    for name, ends in {
        **dict.fromkeys(("rand", "randn", "randint"), ("", "_like")),
        **dict.fromkeys(("normal", "bernoulli"), ("", "_")),
        **dict.fromkeys(("randperm", "multinomial", "poisson"), ("",)),
        **dict.fromkeys(("uniform", "random", "exponential", "cauchy"), ("_",)),
        **dict.fromkeys(("log_normal", "geometric"), ("_",)),
    }.items()
    for end in ends
)
# More kinds of call than these tell nothing new.
_MOST = 8


def generators(device: torch.device | str) -> str:
    """Checksum of the states of the generators that a loop draws from unless it has its own."""
    states = [torch.get_rng_state()]
    if torch.device(device).type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return "".join(f"{crc32(state.numpy().tobytes()):08x}" for state in states)


class DrawnNumbers:
    """Which functions that draw were called, and over how many values."""

    def __init__(self) -> None:
        """None so far."""
        self._calls = dict[str, None]()

    def heard(self, operation: Operation) -> None:
        """Note a function that draws, with the shape of what it draws over."""
        name = getattr(operation.func, "__name__", "")
        if name not in _DRAWING or len(self._calls) >= _MOST:
            return
        # What a multinomial draws from has a weight for every value.
        given = operation.args[0] if operation.args else operation.kwargs.get("input")
        over = given if name == "multinomial" else operation.out
        shape = "x".join(map(str, over.shape)) if isinstance(over, Tensor) else ""
        self._calls[f"{name}:{shape}"] = None

    @property
    def said(self) -> str:
        """For the header: each function with its shape, such as ``rand_like:1x32x126464``."""
        return " ".join(self._calls) or NONE_DRAWN
