"""Layers computed as captured CUDA graphs: hundreds of small launches become one.

A graph repeats the same kernels on the same memory, so everything that changes from step to step
lies in static tensors: the states that go in, and which rows they are. What is captured is the very
code of the eager path.

Shape letters: N packed rows, D width, L canvas length, B requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from skipstone.engine.eager import EagerLayers
from skipstone.models.base import KVStore, Network
from skipstone.rows import Rows

# Above this, launches hide behind the arithmetic, and the states of a graph would take memory.
MOST_ROWS = 1024

Shape = tuple[int, int, bool, tuple[int, ...], tuple[int, ...]]
"""First and last layer, whether every state is wanted, requests, and rows of each."""


@dataclass(frozen=True, eq=False)
class Graph:
    """One captured span of layers for one shape of rows."""

    rows: Rows
    """Static: its tensors are overwritten before each replay."""
    x_ND: Tensor
    """Static: the states that go in."""
    replay: Callable[[], list[tuple[int, Tensor]]]
    """Computes, and gives the static states that came out."""


class GraphLayers:
    """Captures the layers for a shape of rows when it comes up for the second time."""

    def __init__(self, network: Network, store: KVStore) -> None:
        """Capture over a store, whose memory never moves."""
        self.store = store
        self._eager = EagerLayers(network, store)
        self._seen = set[Shape]()
        self._graphs = dict[Shape, Graph]()
        self._pool = torch.cuda.graph_pool_handle() if store.keys.is_cuda else None

    def run(
        self, first: int, last: int, x_ND: Tensor, rows: Rows, *, every: bool
    ) -> Iterator[tuple[int, Tensor]]:
        """Layers ``first`` to ``last``; see ``Layers``."""
        shape = (first, last, every, rows.requests, rows.counts)
        if shape not in self._graphs and (shape not in self._seen or rows.num_rows > MOST_ROWS):
            # The first time is also the warm-up that a capture needs.
            self._seen.add(shape)
            yield from self._eager.run(first, last, x_ND, rows, every=every)
            return
        if shape not in self._graphs:
            self._graphs[shape] = self._capture(first, last, x_ND, rows, every=every)
        graph = self._graphs[shape]
        graph.rows.position_N.copy_(rows.position_N)
        graph.x_ND.copy_(x_ND)
        yield from graph.replay()

    def _capture(self, first: int, last: int, x_ND: Tensor, rows: Rows, *, every: bool) -> Graph:
        # Requests are part of the shape; positions are not, and are overwritten.
        static, x_ND = rows.own(), x_ND.clone()

        def compute() -> list[tuple[int, Tensor]]:
            return list(self._eager.run(first, last, x_ND, static, every=every))

        if self._pool is None:
            return Graph(static, x_ND, compute)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            states = compute()

        def replay() -> list[tuple[int, Tensor]]:
            graph.replay()
            return states

        return Graph(static, x_ND, replay)
