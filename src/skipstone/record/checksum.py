"""Checksums over everything a trace stores: each says what the value is, and of what.

XXH3-128, seeded by a random number of the run. A row's checksum covers the name of its table and
all of its columns; a tensor's covers sample, forward, tap, layer, dtype and shape too, so that what
was stored for one step does not pass for another's, nor for that of another run. It tells accidents
from what was recorded; it does not withstand somebody who computes checksums anew.
"""

from __future__ import annotations

import struct

import numpy as np
from xxhash import xxh3_128

from skipstone.record.tensors import TensorKey

Value = str | int | float | bytes | None
ValueRow = tuple[Value, ...]

_INT, _FLOAT = struct.Struct("<cq"), struct.Struct("<cd")
_SIZE = _INT


class Checksums:
    """Checksums of one run."""

    def __init__(self, run: str) -> None:
        """Take the run's seed.

        Args:
            run: 16 hexadecimal digits.
        """
        self._seed = int(run, 16)

    def row(self, table: str, *values: Value) -> bytes:
        """Over the name of a table and the values of one of its rows, with their types."""
        return xxh3_128(b"".join(map(_bytes, (table, *values))), seed=self._seed).digest()

    def tensor(
        self, sample: int, key: TensorKey, positions: np.ndarray, values: np.ndarray
    ) -> bytes:
        """Over a tensor, and all that says which one it is.

        Args:
            sample: which request.
            key: which tensor of the request.
            positions: int32 [N].
            values: [N, W] of any dtype.
        """
        shape = tuple(int(size) for size in values.shape)
        about = (sample, key.forward, str(key.tap), key.layer, values.dtype.name, *shape)
        found = xxh3_128(b"".join(map(_bytes, ("tensor", *about))), seed=self._seed)
        for array in (positions, values):
            found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return found.digest()


def _bytes(value: Value) -> bytes:
    """A value as bytes that no other value has, and that do not run into their neighbours."""
    if isinstance(value, int):
        return _INT.pack(b"i", value)
    if isinstance(value, str):
        raw = value.encode()
        return _SIZE.pack(b"t", len(raw)) + raw
    if value is None:
        return b"n"
    if isinstance(value, float):
        return _FLOAT.pack(b"f", value)
    return _SIZE.pack(b"b", len(value)) + value
