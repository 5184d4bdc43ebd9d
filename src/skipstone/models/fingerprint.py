"""The identity of a network's weights: a checksum over every value of every weight.

It is that of the values, not of their layout: the same for any sharding, order, device, fusion of
weights, and for every dtype that holds the values exactly. A checkpoint in bfloat16 has one
fingerprint whether it is loaded as bfloat16 or float32; one in float32 that is rounded to bfloat16
has another one, since other numbers compute.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

# Values of a weight that are hashed as one, so that threads share large weights and copies stay
# small. Another number gives other fingerprints.
_PIECE = 1 << 22
# Hashing leaves Python's lock and is bound by the processor; more threads would wait for memory.
_MOST_THREADS = 8
_DIGITS = 16


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Checksum of named weights: 16 hexadecimal digits of a SHA-256.

    Args:
        weights: by published name; any floating dtype, on any device.
    """
    whole = hashlib.sha256()
    names = sorted(weights)
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        # In a forked process the first new thread that computes makes torch's own threads anew,
        # unguarded: a second one at that moment finds none, "Invalid thread pool!".
        pool.submit(torch.get_num_threads).result()
        pieces = pool.map(_digest, (piece for name in names for piece in _pieces(weights[name])))
        for name in names:
            whole.update(f"{name} {tuple(weights[name].shape)} ".encode())
            for _ in _pieces(weights[name]):
                whole.update(next(pieces))
    return whole.hexdigest()[:_DIGITS]


def _pieces(weight: Tensor) -> Iterator[Tensor]:
    yield from weight.detach().flatten().split(_PIECE)


def _digest(values_N: Tensor) -> bytes:
    """Checksum of some values, in the narrowest dtype that holds all of them exactly."""
    narrow_N = _narrowest(values_N).cpu().contiguous()
    digest = hashlib.sha256(str(narrow_N.dtype).encode())
    digest.update(narrow_N.view(torch.uint8).numpy().data)
    return digest.digest()


def _narrowest(values_N: Tensor) -> Tensor:
    for dtype in (torch.bfloat16, torch.float32):
        narrow_N = values_N.to(dtype)
        if torch.equal(narrow_N.to(values_N.dtype), values_N):
            return narrow_N
    return values_N.double()
