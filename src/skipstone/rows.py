"""Rows: the positions of a canvas that one forward recomputes.

Everything that travels through the layers is packed: row ``n`` is position ``position_N[n]`` of
request ``request_N[n]``. Nothing is ever compared, scattered or stored by row number.

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
    device: torch.device
    refresh: bool = False
    """A refresh renews every layer of every row, so no row may skip."""
    fresh_N: Tensor | None = None
    """bool [N], on the device: rows of requests that refresh while others may skip; None: none."""

    @classmethod
    def spans(
        cls,
        spans: Sequence[tuple[int, int, int]],
        device: torch.device,
        *,
        refresh: bool = False,
    ) -> Rows:
        """Rows of the spans ``(request, first position, last position + 1)``; none is empty."""
        return _spans(tuple(spans), device, refresh)

    @property
    def num_rows(self) -> int:
        """N, the number of packed rows."""
        return self.position.shape[0]

    @property
    def uniform(self) -> bool:
        """Whether all requests have the same number of rows, so that packed is also dense."""
        return len(set(self.counts)) == 1

    @cached_property
    def request_N(self) -> Tensor:
        """int64 [N]: ``request`` on the device."""
        return to_device(self.request, self.device)

    @cached_property
    def position_N(self) -> Tensor:
        """int64 [N]: ``position`` on the device."""
        return to_device(self.position, self.device)

    @cached_property
    def request_A(self) -> Tensor:
        """int64 [A]: the requests that have rows."""
        return to_device(np.array(self.requests), self.device)

    @cached_property
    def padded_N(self) -> Tensor:
        """int64 [N]: where each packed row lies in a dense tensor of A x R rows, flattened."""
        widest = max(self.counts)
        slots = [np.arange(count) + i * widest for i, count in enumerate(self.counts)]
        return to_device(np.concatenate(slots), self.device)

    def own(self) -> Rows:
        """A copy with device tensors of its own, all of them made."""
        # On a CPU the tensors are the arrays.
        rows = replace(
            self,
            request=self.request.copy(),
            position=self.position.copy(),
            fresh_N=None if self.fresh_N is None else self.fresh_N.clone(),
        )
        for name in ("request_N", "position_N", "request_A", "padded_N"):
            getattr(rows, name)
        return rows

    def take(self, index: np.ndarray) -> Rows:
        """The rows at ``index``.

        Args:
            index: int64 [M], ascending, on the host; 0 <= M <= N.
        """
        request, fresh_N = self.request[index], self.fresh_N
        requests, counts = np.unique(request, return_counts=True)
        return Rows(
            requests=tuple(requests.tolist()),
            counts=tuple(counts.tolist()),
            request=request,
            position=self.position[index],
            device=self.device,
            refresh=self.refresh,
            fresh_N=None if fresh_N is None else fresh_N[to_device(index, self.device)],
        )

    def mark(self, like_BL: Tensor) -> Tensor:
        """Where these rows stand, as bool [B, L]."""
        marked_BL = torch.zeros_like(like_BL, dtype=torch.bool)
        write_at(marked_BL, (self.request_N, self.position_N), 1)
        return marked_BL


# Steps of a block have the same rows: what is on the device need not be copied again.
@lru_cache(maxsize=64)
def _spans(spans: tuple[tuple[int, int, int], ...], device: torch.device, refresh: bool) -> Rows:
    counts = tuple(stop - start for _, start, stop in spans)
    return Rows(
        requests=tuple(request for request, _, _ in spans),
        counts=counts,
        request=np.repeat([request for request, _, _ in spans], counts),
        position=np.concatenate([np.arange(start, stop) for _, start, stop in spans]),
        device=device,
        refresh=refresh,
    )
