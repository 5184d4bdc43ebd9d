"""Rows: the positions of a canvas that one forward recomputes.

Everything that travels through the layers is packed: row ``n`` is position ``position_N[n]`` of
request ``request_N[n]``, and sees what stands left of its horizon, ``horizon_N[n]``. Its keys and
values lie in cell ``base_N[n] + position_N[n]`` of the K/V store. Nothing is ever compared,
scattered or stored by row number.

The host's arrays say what a step computes; kernels read the tensors alone. Those of a captured
graph are overwritten before each replay: then a request may have fewer rows than the host says, or
none, and rows beyond ``offset_A1[-1]`` are padding.

Shape letters: N packed rows, A requests with rows, W pieces of the work of attention.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from skipstone.alike import Alike, alike
from skipstone.reach import FULL, Reach


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Copy host values to a device without waiting for what the device is doing."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class HostCopy:
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


def to_host(values: Tensor) -> HostCopy:
    """Begin to copy values, as they are now, to the host."""
    if not values.is_cuda:
        return HostCopy(values.detach().clone().numpy(), None)
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return HostCopy(host.numpy(), arrived)


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
    base: np.ndarray
    """int64 [N], on the host: the cell of the store in which position 0 of its request lies."""
    device: torch.device
    refreshed: tuple[int, ...] = ()
    """Requests that are refreshed: every layer of each of their rows is renewed, none may skip."""
    fresh_N: Tensor | None = None
    """bool [N], on the device: rows that a skip policy may not drop; None if it may drop any."""
    writes_N: Tensor | None = None
    """bool [N], on the device: rows whose K/V are written and whose states count; None: all."""
    work_W8: Tensor | None = None
    """int32 [W, 8], on the device: how attention cuts up its work, where a captured graph is told
    so before each replay; None: as the host's arrays say."""

    @classmethod
    def spans(
        cls,
        spans: Sequence[tuple[int, int, int]],
        device: torch.device,
        *,
        lengths: Sequence[int] | None = None,
        bases: Sequence[int] | None = None,
        reaches: Sequence[Reach] | None = None,
        refresh: bool = False,
    ) -> Rows:
        """Rows of the spans ``(request, first position, last position + 1)``; none is empty.

        Args:
            spans: one for each request, ascending.
            device: where the rows will be needed.
            lengths: of these requests; None: they end with the span.
            bases: cells in which these requests begin; None: all of them in the first one, for who
                needs no store or has one request.
            reaches: how far rows of each of them see; None: all of their request.
            refresh: whether the requests are refreshed.
        """
        spans = tuple(spans)
        ends = tuple(stop for _, _, stop in spans) if lengths is None else tuple(lengths)
        starts = (0,) * len(spans) if bases is None else tuple(bases)
        seen = (FULL,) * len(spans) if reaches is None else tuple(reaches)
        return _spans(spans, ends, starts, seen, device, refresh)

    @classmethod
    def at(
        cls,
        positions: Mapping[int, np.ndarray],
        device: torch.device,
        *,
        lengths: Sequence[int],
        bases: Sequence[int],
        reaches: Sequence[Reach],
        refreshed: tuple[int, ...] = (),
    ) -> Rows:
        """Rows at any positions of requests; both ascend, and no request is without one."""
        requests, counts = tuple(positions), tuple(len(own) for own in positions.values())
        nothing = np.empty(0, np.int64)
        each = zip(reaches, positions.values(), lengths, strict=True)
        return cls(
            requests=requests,
            counts=counts,
            request=np.repeat(np.array(requests, np.int64), counts),
            position=np.concatenate([nothing, *positions.values()], dtype=np.int64),
            horizon=np.concatenate([nothing, *(r.horizon(p, length) for r, p, length in each)]),
            base=np.repeat(np.array(bases, np.int64), counts),
            device=device,
            refreshed=refreshed,
        )

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
    def widest(self) -> int:
        """Rows of the largest request."""
        return max(self.counts, default=0)

    def of(self, requests: Collection[int]) -> np.ndarray:
        """Which rows are of some requests: bool [N], on the host."""
        wanted = np.array([request in requests for request in self.requests], bool)
        return wanted.repeat(self.counts)

    def only(self, requests: Sequence[int]) -> Rows:
        """The rows of some requests; asked again, the same ones, with what is on the device."""
        return self if set(self.requests) <= set(requests) else _only(self, tuple(requests))

    def span(self, request: int) -> slice:
        """Where the rows of a request stand among these; empty if it has none."""
        first, end = np.searchsorted(self.request, (request, request + 1)).tolist()
        return slice(first, end)

    @cached_property
    def ends(self) -> np.ndarray:
        """Where the rows of each request end among these: int64 [A], on the host."""
        return np.array(self.counts, np.int64).cumsum()

    @cached_property
    def where_4N(self) -> Tensor:
        """int64 [4, N]: request, position, horizon and base on the device, after one copy."""
        return to_device(np.stack(self._where), self.device)

    @property
    def _where(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.request, self.position, self.horizon, self.base

    @cached_property
    def request_N(self) -> Tensor:
        """int64 [N]: ``request`` on the device."""
        return self.where_4N[0]

    @cached_property
    def position_N(self) -> Tensor:
        """int64 [N]: ``position`` on the device."""
        return self.where_4N[1]

    @cached_property
    def horizon_N(self) -> Tensor:
        """int64 [N]: ``horizon`` on the device."""
        return self.where_4N[2]

    @cached_property
    def base_N(self) -> Tensor:
        """int64 [N]: ``base`` on the device."""
        return self.where_4N[3]

    @property
    def cell_N(self) -> Tensor:
        """int64 [N]: where the keys and values of each row lie; computed, as a replay needs it."""
        return self.base_N + self.position_N

    @cached_property
    def request_A(self) -> Tensor:
        """int64 [A]: the requests that have rows."""
        return to_device(np.array(self.requests), self.device)

    @cached_property
    def offset_A1(self) -> Tensor:
        """int32 [A + 1]: where the rows of each request start; the last entry is N."""
        ends = np.cumsum((0, *self.counts), dtype=np.int32)
        return to_device(ends, self.device)

    @classmethod
    def static(cls, num_rows: int, horizon: int, pieces: int, device: torch.device) -> Rows:
        """Rows for a captured graph, whose tensors are filled later: all padding as yet.

        Args:
            num_rows: N, padding included.
            horizon: as far as any of them may see, for who cuts up the work.
            pieces: W, of the work of attention.
            device: where the tensors lie.
        """
        nowhere = np.zeros(num_rows, np.int64)
        return cls(
            requests=(0,),
            counts=(num_rows,),
            request=nowhere,
            position=nowhere,
            horizon=np.full(num_rows, horizon, np.int64),
            base=nowhere,
            device=device,
            writes_N=torch.zeros(num_rows, dtype=torch.bool, device=device),
            work_W8=torch.zeros(pieces, 8, dtype=torch.int32, device=device),
        )

    @cached_property
    def alike(self) -> list[Alike]:
        """All requests with rows, in order, those together that lie alike."""
        return alike(self.requests, self.counts, self.horizon, self.base)

    def own(self) -> Rows:
        """A copy with device tensors of its own, all of them made."""
        rows = replace(
            self,
            writes_N=None if self.writes_N is None else self.writes_N.clone(),
            fresh_N=None if self.fresh_N is None else self.fresh_N.clone(),
        )
        for name in ("where_4N", "request_A", "offset_A1"):
            getattr(rows, name)
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
        ends = np.searchsorted(index, self.ends).tolist()
        counts = [end - first for first, end in zip((0, *ends), ends, strict=False)]
        own = {of: count for of, count in zip(self.requests, counts, strict=True) if count}
        return Rows(
            requests=tuple(own),
            counts=tuple(own.values()),
            request=self.request[index],
            position=self.position[index],
            horizon=self.horizon[index],
            base=self.base[index],
            device=self.device,
            refreshed=tuple(of for of in self.refreshed if of in own),
        )

    def pack(self, index: np.ndarray) -> tuple[Rows, Tensor]:
        """The rows at ``index``, and the index on the device: all of it after one copy."""
        rows = self._at(index)
        packed_5N = to_device(np.stack([index, *rows._where]), self.device)
        vars(rows)["where_4N"] = packed_5N[1:]
        if self.fresh_N is not None:
            rows = rows._with(fresh_N=self.fresh_N[packed_5N[0]])
        return rows, packed_5N[0]

    def protect(self, requests: Sequence[int]) -> Rows:
        """The same rows, none of which may be dropped of some requests."""
        fresh = self.of(requests)
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


_PLACES = (
    "where_4N",
    "request_N",
    "position_N",
    "horizon_N",
    "base_N",
    "request_A",
    "offset_A1",
    "alike",
)


# Steps of a block have the same rows: what is on the device need not be copied again.
@lru_cache(maxsize=64)
def _spans(
    spans: tuple[tuple[int, int, int], ...],
    lengths: tuple[int, ...],
    bases: tuple[int, ...],
    reaches: tuple[Reach, ...],
    device: torch.device,
    refresh: bool,
) -> Rows:
    positions = {request: np.arange(start, stop) for request, start, stop in spans}
    refreshed = tuple(positions) if refresh else ()
    return Rows.at(
        positions, device, lengths=lengths, bases=bases, reaches=reaches, refreshed=refreshed
    )


# A layer after the other asks for the same.
@lru_cache(maxsize=64)
def _only(rows: Rows, requests: tuple[int, ...]) -> Rows:
    return rows.take(np.flatnonzero(rows.of(requests)))


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
        base=np.concatenate([part.base for part in parts])[order],
        device=parts[0].device,
        refreshed=tuple(sorted(request for part in parts for request in part.refreshed)),
    )
