"""Rows: the positions of a canvas that one forward recomputes.

Everything that travels through the layers is packed: row ``n`` is position ``position_N[n]`` of
request ``request_N[n]``, and sees what stands left of its horizon, ``horizon_N[n]``. Nothing is
ever compared, scattered or stored by row number.

The host's arrays say what a step computes; kernels read the tensors alone. Those of a captured
graph are overwritten before each replay: then a request may have fewer rows than the host says, or
none, and rows beyond ``offset_A1[-1]`` are padding.

Shape letters: N packed rows, R rows of one request (the largest), A requests with rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Copy host values to a device without waiting for what the device is doing."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class Arriving:
    """Values on their way to the host, while the device may go on."""

    values: np.ndarray
    """Filled once they are there."""
    arrived: torch.cuda.Event | None
    """None where there is nothing to wait for."""

    def wait(self) -> np.ndarray:
        """Wait until they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.values


def to_host(values: Tensor) -> Arriving:
    """Begin to copy values, as they are now, to the host."""
    if not values.is_cuda:
        return Arriving(values.detach().clone().numpy(), None)
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return Arriving(host.numpy(), arrived)


def upload(into: Tensor, values: np.ndarray) -> None:
    """Overwrite a tensor by values of the host, without waiting for what the device is doing."""
    source = torch.from_numpy(values)
    into.copy_(source.pin_memory() if into.is_cuda else source, non_blocking=True)


def write_at(table_BL: Tensor, where: tuple[Tensor, Tensor], value: int) -> None:
    """Write one number at some places; as an item of the table it would be waited for."""
    table_BL.index_put_(where, torch.full((), value, dtype=table_BL.dtype, device=table_BL.device))


@dataclass(frozen=True, eq=False)
class Rows:
    """Packed rows, sorted by request and then by position. The host knows them all."""

    requests: tuple[int, ...]
    """Requests that have rows, ascending, A of them."""
    counts: tuple[int, ...]
    """Rows of each of these requests; all are positive."""
    request: np.ndarray
    """int64 [N], on the host: the request of each row."""
    position: np.ndarray
    """int64 [N], on the host: the absolute position of each row in the canvas of its request."""
    horizon: np.ndarray
    """int64 [N], on the host: the first position of its request that each row may not see."""
    device: torch.device
    refreshed: tuple[int, ...] = ()
    """Requests that are refreshed: every layer of each of their rows is renewed, none may skip."""
    fresh_N: Tensor | None = None
    """bool [N], on the device: rows that a skip policy may not drop; None if it may drop any."""
    writes_N: Tensor | None = None
    """bool [N], on the device: rows whose K/V are written and whose states count; None: all."""

    @classmethod
    def spans(
        cls,
        spans: Sequence[tuple[int, int, int]],
        device: torch.device,
        *,
        lengths: Sequence[int] | None = None,
        refresh: bool = False,
    ) -> Rows:
        """Rows of the spans ``(request, first position, last position + 1)``; none is empty.

        Args:
            spans: one for each request, ascending.
            device: where the rows will be needed.
            lengths: of these requests, of which every row sees all; None: all that a store holds.
            refresh: whether the requests are refreshed.
        """
        return _spans(tuple(spans), None if lengths is None else tuple(lengths), device, refresh)

    @classmethod
    def join(cls, *parts: Rows) -> Rows:
        """Rows of several batches as one; no request is in two of them."""
        parts = tuple(part for part in parts if part.num_rows) or parts[:1]
        return parts[0] if len(parts) == 1 else _join(parts)

    def beside(self, others: Rows) -> Rows:
        """These rows and those of other requests as one."""
        return Rows.join(self, others)

    @property
    def refresh(self) -> bool:
        """Whether all of these rows are refreshed."""
        return bool(self.refreshed) and self.refreshed == self.requests

    @property
    def num_rows(self) -> int:
        """N, the number of packed rows."""
        return self.position.shape[0]

    @property
    def uniform(self) -> bool:
        """Whether all requests have the same number of rows, so that packed is also dense."""
        return len(set(self.counts)) == 1

    @property
    def widest(self) -> int:
        """R, rows of the largest request."""
        return max(self.counts, default=0)

    @cached_property
    def where_3N(self) -> Tensor:
        """int64 [3, N]: ``request``, ``position``, ``horizon`` on the device, after one copy."""
        return to_device(np.stack([self.request, self.position, self.horizon]), self.device)

    @cached_property
    def request_N(self) -> Tensor:
        """int64 [N]: ``request`` on the device."""
        return self.where_3N[0]

    @cached_property
    def position_N(self) -> Tensor:
        """int64 [N]: ``position`` on the device."""
        return self.where_3N[1]

    @cached_property
    def horizon_N(self) -> Tensor:
        """int64 [N]: ``horizon`` on the device."""
        return self.where_3N[2]

    @cached_property
    def request_A(self) -> Tensor:
        """int64 [A]: the requests that have rows."""
        return to_device(np.array(self.requests), self.device)

    @cached_property
    def offset_A1(self) -> Tensor:
        """int32 [A + 1]: where the rows of each request start; the last entry is N."""
        ends = np.cumsum((0, *self.counts), dtype=np.int32)
        return to_device(ends, self.device)

    @cached_property
    def padded_N(self) -> Tensor:
        """int64 [N]: where each packed row lies in a dense tensor of A x R rows, flattened."""
        slots = [np.arange(count) + i * self.widest for i, count in enumerate(self.counts)]
        return to_device(np.concatenate(slots), self.device)

    @classmethod
    def static(cls, batch: int, num_rows: int, horizon: int, device: torch.device) -> Rows:
        """Rows for a captured graph, whose tensors are filled later: all padding as yet.

        Args:
            batch: A, requests that may have rows, as many each as there are.
            num_rows: N, padding included.
            horizon: as far as any of them may see, for who cuts up the work.
            device: where the tensors lie.
        """
        nowhere = np.zeros(num_rows, np.int64)
        rows = cls(
            requests=tuple(range(batch)),
            counts=(num_rows,) * batch,
            request=nowhere,
            position=nowhere,
            horizon=np.full(num_rows, horizon, np.int64),
            device=device,
            writes_N=torch.zeros(num_rows, dtype=torch.bool, device=device),
        )
        rows.offset_A1.zero_()
        return rows

    @cached_property
    def alike(self) -> list[tuple[Rows, Tensor]]:
        """Parts whose requests have about as many rows, at most twice as many, and their index.

        Empty where all of them have.
        """
        sizes = [count.bit_length() for count in self.counts]
        if len(set(sizes)) < 2:
            return []
        size = np.repeat(sizes, self.counts)
        return [self.pack(np.flatnonzero(size == one)) for one in np.unique(size)]

    def own(self) -> Rows:
        """A copy with device tensors of its own, all of them made."""
        rows = replace(
            self,
            writes_N=None if self.writes_N is None else self.writes_N.clone(),
            fresh_N=None if self.fresh_N is None else self.fresh_N.clone(),
        )
        for part in (rows, *(part for part, _ in rows.alike)):
            for name in ("where_3N", "request_A", "offset_A1", "padded_N"):
                getattr(part, name)
        return rows

    def take(self, index: np.ndarray) -> Rows:
        """The rows at ``index``; all of them are written.

        Args:
            index: int64 [M], ascending, on the host; 0 <= M <= N.
        """
        rows, fresh_N = self._at(index), self.fresh_N
        if fresh_N is None:
            return rows
        return replace(rows, fresh_N=fresh_N[to_device(index, self.device)])

    def _at(self, index: np.ndarray) -> Rows:
        """The rows at ``index``, without what the device alone knows of them."""
        request = self.request[index]
        counts = np.bincount(request)
        requests = np.flatnonzero(counts)
        return Rows(
            requests=tuple(requests.tolist()),
            counts=tuple(counts[requests].tolist()),
            request=request,
            position=self.position[index],
            horizon=self.horizon[index],
            device=self.device,
            refreshed=tuple(r for r in self.refreshed if counts[r : r + 1].any()),
        )

    def pack(self, index: np.ndarray) -> tuple[Rows, Tensor]:
        """The rows at ``index``, and the index on the device: all of it after one copy."""
        rows = self._at(index)
        packed = np.stack([index, rows.request, rows.position, rows.horizon])
        packed_4N = to_device(packed, self.device)
        vars(rows)["where_3N"] = packed_4N[1:]
        if self.fresh_N is not None:
            rows = rows._with(fresh_N=self.fresh_N[packed_4N[0]])
        return rows, packed_4N[0]

    def protect(self, requests: Sequence[int]) -> Rows:
        """The same rows, none of which may be dropped of some requests."""
        fresh = np.isin(self.request, requests)
        return self._with(fresh_N=to_device(fresh, self.device)) if fresh.any() else self

    def writing(self, writes_N: Tensor) -> Rows:
        """The same rows, of which only some write: the others are computed in vain."""
        return self._with(writes_N=writes_N)

    def _with(self, **changes: Tensor) -> Rows:
        """A copy that takes along what is on the device already."""
        rows = replace(self, **changes)
        vars(rows).update({name: vars(self)[name] for name in _PLACES if name in vars(self)})
        return rows

    def mark(self, like_BL: Tensor) -> Tensor:
        """Where these rows stand, as bool [B, L]."""
        marked_BL = torch.zeros_like(like_BL, dtype=torch.bool)
        write_at(marked_BL, (self.request_N, self.position_N), 1)
        return marked_BL


# Beyond any length; a store ends earlier.
_EVERYTHING = np.iinfo(np.int32).max
_PLACES = (
    "where_3N",
    "request_N",
    "position_N",
    "horizon_N",
    "request_A",
    "offset_A1",
    "padded_N",
    "alike",
)


# Steps of a block have the same rows: what is on the device need not be copied again.
@lru_cache(maxsize=64)
def _spans(
    spans: tuple[tuple[int, int, int], ...],
    lengths: tuple[int, ...] | None,
    device: torch.device,
    refresh: bool,
) -> Rows:
    requests = tuple(request for request, _, _ in spans)
    counts = tuple(stop - start for _, start, stop in spans)
    nothing = np.empty(0, np.int64)
    return Rows(
        requests=requests,
        counts=counts,
        request=np.repeat(np.array(requests, np.int64), counts),
        position=np.concatenate([nothing, *(np.arange(start, stop) for _, start, stop in spans)]),
        horizon=np.repeat(np.array(lengths or (_EVERYTHING,) * len(spans), np.int64), counts),
        device=device,
        refreshed=requests if refresh else (),
    )


@lru_cache(maxsize=16)
def _join(parts: tuple[Rows, ...]) -> Rows:
    request = np.concatenate([part.request for part in parts])
    order = np.argsort(request, kind="stable")
    counts = dict(pair for part in parts for pair in zip(part.requests, part.counts, strict=True))
    requests = tuple(sorted(counts))
    return Rows(
        requests=requests,
        counts=tuple(counts[request] for request in requests),
        request=request[order],
        position=np.concatenate([part.position for part in parts])[order],
        horizon=np.concatenate([part.horizon for part in parts])[order],
        device=parts[0].device,
        refreshed=tuple(sorted(request for part in parts for request in part.refreshed)),
    )
