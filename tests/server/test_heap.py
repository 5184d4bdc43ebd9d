"""Memory that nothing uses any more goes back to the machine while a server runs."""

from __future__ import annotations

import ctypes
import platform
import threading
import time

import psutil
import pytest

from skipstone.server.heap import give_back_regularly

PIECES, PIECE = 4000, 16 << 10
"""Too small to have pages of their own: freed, they stay with the C library."""


def resident() -> float:
    """Megabytes."""
    return psutil.Process().memory_info().rss / 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
def test_what_is_freed_between_what_is_in_use_goes_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    pieces = [libc.malloc(PIECE) for _ in range(PIECES)]
    for piece in pieces:
        libc.memset(piece, 1, PIECE)
    for piece in pieces[:-1]:  # the last one holds what is below it
        libc.free(piece)
    before = resident()
    end = give_back_regularly(0.05)
    try:
        deadline = time.monotonic() + 10
        while resident() > before - 40 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert resident() < before - 40
    finally:
        end()
        libc.free(pieces[-1])
    deadline = time.monotonic() + 10
    while any(one.name == "skipstone-heap" for one in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
