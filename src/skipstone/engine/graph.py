"""Layers computed as captured CUDA graphs: hundreds of small launches become one.

A graph repeats the same kernels on the same memory, so everything that changes from step to step
lies in static tensors: the states that go in, and which rows they are. What is captured is the very
code of the eager path. Rows are padded to a bucket, so that few graphs serve every number of rows,
however it is spread over the requests; padding writes nothing.

Shape letters: N packed rows (padded), D width, L canvas length, B requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skipstone.engine.eager import EagerLayers
from skipstone.models.base import KVStore, Network
from skipstone.ops import dispatch as ops
from skipstone.rows import Rows, upload

if TYPE_CHECKING:
    from torch.cuda.graphs import _POOL_HANDLE

# Above this, launches hide behind the arithmetic, and the states of a graph would take memory.
MOST_ROWS = 2048
# Where the states of every layer are kept, they take as much for each.
_MOST_ROWS_OF_EVERY = 1024

Span = tuple[int, int, bool]
"""First and last layer, and whether the states after each of them are wanted."""


class Shape(NamedTuple):
    """What a graph is captured for."""

    first: int
    last: int
    every: bool
    """Whether every state is wanted, or only the last."""
    num_rows: int
    """N, the size of the bucket."""
    splits: bool
    """Whether attention may split the keys that rows see."""
    spread: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool] | None
    """Requests, rows of each, how far they see, and whether some do not write, where attention does
    not read all that from the device."""


@dataclass(eq=False)
class Graph:
    """One span of layers for one shape of rows, captured when it comes up for the second time."""

    static: Rows
    """Its tensors are overwritten before each replay."""
    x_ND: Tensor
    """Static: the states that go in."""
    compute: Callable[[], list[tuple[int, Tensor]]]
    """Launches everything, and gives the states that come out."""
    held: Rows | None = None
    """What ``static`` says at present."""
    seen: bool = False
    captured: torch.cuda.CUDAGraph | None = None
    states: list[tuple[int, Tensor]] | None = None
    """Static: what the captured launches write."""

    def take(self, rows: Rows, x_ND: Tensor) -> None:
        """Overwrite what goes in."""
        self.x_ND[: rows.num_rows].copy_(x_ND)
        if rows is self.held:
            return
        self._take_writes(rows)
        held = self.held
        if held is None or held.where_3N is not rows.where_3N:
            self.static.where_3N[:, : rows.num_rows].copy_(rows.where_3N)
        if held is None or (held.requests, held.counts) != (rows.requests, rows.counts):
            requests = [*self.static.requests, np.iinfo(np.int64).max]
            starts = np.searchsorted(rows.request, requests)
            upload(self.static.offset_A1, starts.astype(np.int32))
        self.held = rows

    def _take_writes(self, rows: Rows) -> None:
        """Say which rows write: padding does not."""
        writes_N, held, count = self.static.writes_N, self.held, rows.num_rows
        if writes_N is None:
            return
        if rows.writes_N is not None:
            writes_N[:count].copy_(rows.writes_N)
        elif held is None or held.writes_N is not None or held.num_rows != count:
            writes_N[:count].fill_(True)
        if held is None or held.num_rows != count:
            writes_N[count:].fill_(False)

    def run(self, pool: _POOL_HANDLE | None) -> list[tuple[int, Tensor]]:
        """Compute; capture what is computed for the second time."""
        if pool is None or not self.seen:
            # The first time is also the warm-up that a capture needs.
            self.seen = True
            return self.compute()
        if self.captured is None:
            self.captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.captured, pool=pool):
                self.states = self.compute()
        self.captured.replay()
        assert self.states is not None
        return self.states


class GraphLayers:
    """Computes layers by graphs of its own, one for each shape of rows."""

    def __init__(self, network: Network, store: KVStore) -> None:
        """Capture over a store, whose memory never moves."""
        self.store = store
        self._eager = EagerLayers(network, store)
        self._width = network.config.width
        self._input_ND: Tensor | None = None
        self._graphs = dict[Shape, Graph]()
        self._pool = torch.cuda.graph_pool_handle() if store.keys.is_cuda else None

    def run(
        self, first: int, last: int, x_ND: Tensor, rows: Rows, *, every: bool
    ) -> Iterator[tuple[int, Tensor]]:
        """Layers ``first`` to ``last``; see ``Layers``."""
        if rows.num_rows > _most_rows(every=every):
            yield from self._eager.run(first, last, x_ND, rows, every=every)
            return
        shape = self._shape(first, last, rows, every=every)
        if shape not in self._graphs:
            self._graphs[shape] = self._prepare(shape, rows)
        graph, count = self._graphs[shape], rows.num_rows
        graph.take(rows, x_ND)
        for layer, states_ND in graph.run(self._pool):
            yield layer, states_ND[:count]

    def warm_up(self, spans: Sequence[Span]) -> None:
        """Capture all that any rows may need, so that nothing is captured later.

        Every bucket is computed twice over padding alone, which writes nothing.
        """
        if self._pool is None or not ops.attends_by_tensors(self.store.keys):
            return
        for first, last, every in spans:
            # The largest first: what it needs in between serves the others, too.
            for num_rows in reversed(list(buckets(_most_rows(every=every)))):
                for shape in self._shapes_of(first, last, num_rows, every=every):
                    self._graphs[shape] = graph = self._prepare(shape, None)
                    graph.run(self._pool)
                    graph.run(self._pool)

    def _shape(self, first: int, last: int, rows: Rows, *, every: bool) -> Shape:
        if ops.attends_by_tensors(self.store.keys):
            splits = ops.splits_keys(rows)
            return Shape(first, last, every, bucket(rows.num_rows), splits, None)
        horizon = tuple(rows.horizon.tolist())
        spread = (rows.requests, rows.counts, horizon, rows.writes_N is not None)
        return Shape(first, last, every, rows.num_rows, False, spread)

    def _shapes_of(self, first: int, last: int, num_rows: int, *, every: bool) -> list[Shape]:
        """Those of a bucket that were not captured yet."""
        whole = Rows.static(1, num_rows, self.store.length, torch.device("cpu"))
        both = (False, True) if ops.splits_keys(whole) else (False,)
        shapes = [Shape(first, last, every, num_rows, splits, None) for splits in both]
        return [shape for shape in shapes if shape not in self._graphs]

    def _prepare(self, shape: Shape, rows: Rows | None) -> Graph:
        keys = self.store.keys
        if shape.spread is None or rows is None:
            sees = self.store.length if shape.splits else 0
            static = Rows.static(self.store.slots, shape.num_rows, sees, keys.device)
        else:
            static = rows.own()
        # All graphs read their input from the same memory: one runs at a time.
        if self._input_ND is None or len(self._input_ND) < shape.num_rows:
            most = max(shape.num_rows, MOST_ROWS if keys.is_cuda else 0)
            self._input_ND = keys.new_zeros(most, self._width)
        x_ND = self._input_ND[: shape.num_rows]
        # Not self: in a cycle, graphs would be freed at any time, and during a capture that fails.
        eager = self._eager

        def compute() -> list[tuple[int, Tensor]]:
            return list(eager.run(shape.first, shape.last, x_ND, static, every=shape.every))

        return Graph(static, x_ND, compute)


def bucket(count: int) -> int:
    """A number of rows that many are padded to: at most a quarter more, where that matters."""
    step = 16 if count <= 64 else 32 if count <= 256 else 64 if count <= 1024 else 128
    return -(-count // step) * step


def buckets(most: int) -> Iterator[int]:
    """All of them up to ``most`` rows, ascending."""
    count = 0
    while (count := bucket(count + 1)) <= most:
        yield count


def _most_rows(*, every: bool) -> int:
    return _MOST_ROWS_OF_EVERY if every else MOST_ROWS
