"""Where the random numbers of a run stand: before and after its first decision."""

from __future__ import annotations

from zlib import crc32

import torch


def generators(device: torch.device | str) -> str:
    """Checksum of the states of the generators that a loop draws from unless it has its own."""
    states = [torch.get_rng_state()]
    if torch.device(device).type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return "".join(f"{crc32(state.numpy().tobytes()):08x}" for state in states)
