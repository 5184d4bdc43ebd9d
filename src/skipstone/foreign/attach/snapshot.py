"""What a call leaves, on its way to the host while the loop goes on.

A copy to the host waits until the device has done all it was asked for. So copies are made where
the tensors are, in the order of their stream: whoever writes into them afterwards changes nothing
here. They are packed into one, which a stream of its own carries over, and read one call later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from skipstone.tracing.record.recorder import to_numpy

# Unpacking fewer bytes takes less time than handing them to another thread.
_LARGE = 1 << 20


class Carriers:
    """The streams that carry copies over, and the thread that unpacks them."""

    def __init__(self) -> None:
        """Start nothing before something is carried."""
        self._streams = dict[torch.device, torch.cuda.Stream]()
        self._thread: ThreadPoolExecutor | None = None

    def stream(self, device: torch.device) -> torch.cuda.Stream:
        """The stream of a device that only carries."""
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]

    def unpacked(self, parcel: _Parcel) -> Callable[[], np.ndarray]:
        """What gives the bytes of a parcel; large ones are unpacked meanwhile."""
        return parcel.unpack if parcel.host.numel() < _LARGE else self.later(parcel.unpack)

    def later(self, work: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
        """What gives the result of some work, which another thread does in its turn."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "skipstone-record")
        return self._thread.submit(work).result

    def close(self) -> None:
        """Wait for what is on its way, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown()
        self._thread = None


class Values(Protocol):
    """Values of a tensor, on their way to the host."""

    def array(self) -> np.ndarray:
        """Them; waits for them."""
        ...


@dataclass(eq=False)
class Copy:
    """A tensor as it was; its values can be read once its snapshot was sent."""

    device: Tensor | None
    """Contiguous, on its device; None if it is on the host already."""
    host: np.ndarray | None = None
    bytes: Callable[[], np.ndarray] | None = None
    at: int = 0
    """Where its bytes begin."""
    _shape: tuple[int, ...] = ()
    _dtype: torch.dtype = torch.uint8

    def array(self) -> np.ndarray:
        """Its values; waits for them."""
        if self.device is not None:
            self.fetch()
        # Another thread may ask at the same time: its bytes go once it has its values.
        coming = self.bytes
        if coming is not None:
            size = math.prod(self._shape) * self._dtype.itemsize
            raw = coming()[self.at : self.at + size]
            self.host = raw.view(_numpy_dtype(self._dtype)).reshape(self._shape)
            self.bytes = None
        assert self.host is not None
        return self.host

    def send(self, packed: Callable[[], np.ndarray], at: int) -> None:
        """It is part of what is being carried."""
        assert self.device is not None
        self._shape, self._dtype = tuple(self.device.shape), self.device.dtype
        self.bytes, self.at, self.device = packed, at, None

    def fetch(self) -> None:
        """Bring it to the host now."""
        assert self.device is not None
        self.host, self.device = to_numpy(self.device), None


@dataclass(eq=False)
class Snapshot:
    """Copies of one call."""

    _copies: list[Copy] = field(default_factory=list)

    def take(self, tensor: Tensor, *, own: bool = False) -> Copy:
        """A copy of a tensor as it is now.

        Args:
            tensor: of any shape.
            own: nobody else holds it, so it is a copy already.
        """
        if not tensor.is_cuda:
            return Copy(None, to_numpy(tensor))
        try:
            device = tensor.detach()
            if not (own and device.is_contiguous()):
                device = device.clone(memory_format=torch.contiguous_format)
        except torch.OutOfMemoryError:
            return Copy(None, to_numpy(tensor))
        self._copies.append(Copy(device))
        return self._copies[-1]

    def send(self, by: Carriers) -> None:
        """Begin to carry all copies over."""
        copies, self._copies = self._copies, list[Copy]()
        # In this order each is aligned to its type.
        copies.sort(key=lambda copy: -_on_device(copy).element_size())
        for device in dict.fromkeys(_on_device(copy).device for copy in copies):
            here = [copy for copy in copies if _on_device(copy).device == device]
            try:
                _send(here, device, by)
            except torch.OutOfMemoryError:
                for copy in here:
                    copy.fetch()


@dataclass(eq=False)
class _Parcel:
    """Bytes on their way."""

    device: Tensor | None
    """Held until they have arrived."""
    host: Tensor
    """uint8, in memory that the device can write to."""
    arrived: torch.cuda.Event
    _bytes: np.ndarray | None = None
    _one: Lock = field(default_factory=Lock)

    def unpack(self) -> np.ndarray:
        """The bytes in ordinary memory, of which there is more."""
        with self._one:
            if self._bytes is None:
                self.arrived.synchronize()
                self.device = None
                self._bytes = self.host.clone().numpy()
                self.host = self.host.new_empty(0)
            return self._bytes


def _send(copies: Sequence[Copy], device: torch.device, by: Carriers) -> None:
    """Carry over the copies on one device."""
    packed = torch.cat([_on_device(copy).flatten().view(torch.uint8) for copy in copies])
    host = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
    stream = by.stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        host.copy_(packed, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(stream)
    carried, at = by.unpacked(_Parcel(packed, host, arrived)), 0
    for copy in copies:
        size = _on_device(copy).nbytes
        copy.send(carried, at)
        at += size


def _on_device(copy: Copy) -> Tensor:
    assert copy.device is not None
    return copy.device


def _numpy_dtype(dtype: torch.dtype) -> np.dtype:
    if dtype == torch.bfloat16:
        return np.dtype(ml_dtypes.bfloat16)
    return torch.empty(0, dtype=dtype).numpy().dtype
