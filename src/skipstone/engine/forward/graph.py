"""Layers computed as captured CUDA graphs: hundreds of small launches become one.

A graph repeats the same kernels on the same memory, so everything that changes from step to step
lies in static tensors: the states that go in, which rows they are, and how the work of attention is
cut up. What is captured is the very code of the eager path. Rows are padded to a bucket, so that
few graphs serve every number of rows, of any requests; padding writes nothing.

Shape letters: N packed rows (padded), D width, W pieces of the work of attention.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skipstone.engine.forward.eager import EagerLayers
from skipstone.memory.ranges import Range
from skipstone.memory.store import KVStore
from skipstone.models.base import Network
from skipstone.ops import prefetch
from skipstone.ops.decide import dispatch as decide
from skipstone.ops.model import dispatch as ops
from skipstone.rows import Rows

if TYPE_CHECKING:
    from torch.cuda.graphs import _POOL_HANDLE

_log = logging.getLogger(__name__)

# Above this, launches hide behind the arithmetic, and the states of a graph would take memory.
MOST_ROWS = 2048
# So many have kernels of their own.
_FEW_ROWS = 64
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
    spread: tuple[tuple[int, ...], tuple[int, ...], bytes, bytes, bool] | None
    """Requests, rows of each, how far they see, where their keys lie, and whether some do not
    write, where attention does not read all that from the device."""


@dataclass(eq=False)
class Graph:
    """One span of layers for one shape of rows, captured when it comes up for the second time."""

    static: Rows
    """Its tensors are overwritten before each replay."""
    x_ND: Tensor
    """Static: the states that go in."""
    compute: Callable[[], list[tuple[int, Tensor]]]
    """Launches everything, and gives the states that come out."""
    attention: ops.CapturedAttention | None
    """Cuts up its work, where that is read from the device."""
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
        if self.held is None or self.held.where_4N is not rows.where_4N:
            self.static.where_4N[:, : rows.num_rows].copy_(rows.where_4N)
            if self.attention is not None and self.static.work_W8 is not None:
                _upload(self.static.work_W8, self.attention.pieces(rows))
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
        captured = self.captured or self.capture(pool)
        captured.replay()
        assert self.states is not None
        return self.states

    def capture(self, pool: _POOL_HANDLE) -> torch.cuda.CUDAGraph:
        """Capture the launches, without computing anything; their kernels must be loaded."""
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured, pool=pool):
            self.states = self.compute()
        self.captured, self.seen = captured, True
        return captured


class GraphLayers:
    """Computes layers by graphs of its own, one for each shape of rows."""

    def __init__(self, network: Network, store: KVStore) -> None:
        """Capture over a store, whose memory never moves."""
        self.store = store
        self._network = network
        self._eager = EagerLayers(network, store)
        self._width, self._heads = network.config.width, network.config.num_heads
        self._input_ND: Tensor | None = None
        self._graphs = dict[Shape, Graph]()
        self._pool = torch.cuda.graph_pool_handle() if store.keys.is_cuda else None

    def run(
        self, first: int, last: int, x_ND: Tensor, rows: Rows, *, every: bool
    ) -> Iterator[tuple[int, Tensor]]:
        """Layers ``first`` to ``last``; see ``Layers``."""
        shape = self._shape(first, last, rows, every=every)
        if shape is None:
            yield from self._eager.run(first, last, x_ND, rows, every=every)
            return
        if shape not in self._graphs:
            self._graphs[shape] = self._prepare(shape, rows)
        graph, count = self._graphs[shape], rows.num_rows
        graph.take(rows, x_ND)
        for layer, states_ND in graph.run(self._pool):
            yield layer, states_ND[:count]

    def warm_up(self, spans: Sequence[Span]) -> None:
        """Capture all that any rows may need, so that nothing is captured later.

        What is computed is padding alone, which writes nothing.
        """
        if self._pool is None or not ops.attends_by_tensors(self.store.keys):
            return
        # The largest first: what it needs in between serves the others, too.
        shapes = [
            shape
            for span in spans
            for num_rows in reversed(list(buckets(_most_rows(every=span[2]))))
            for shape in self._shapes_of(span, num_rows)
        ]
        if not shapes:
            return
        prefetch.wait()
        # A warning, so that it is on stderr unless somebody wants it elsewhere.
        _log.warning("skipstone: preparing %d CUDA graphs, once for this engine", len(shapes))
        for shape in shapes:
            self._graphs[shape] = graph = self._prepare(shape, None)
            # Kernels are loaded by their first launch, which must not be captured; those of one
            # layer are those of all.
            layer = self._eager.run(shape.first, shape.first, graph.x_ND, graph.static, every=False)
            deque(layer, maxlen=0)
            graph.capture(self._pool)
        self._load_head()
        self._load_many()

    def _load_many(self) -> None:
        """Load the kernels of more rows than a graph has, while nobody uses the store."""
        # Of unequal lengths: what is dense is left to the library.
        long = min(MOST_ROWS, self._network.config.max_length)
        lengths = [*[long] * (MOST_ROWS // long), long - 1, 2]
        bases = np.cumsum([0, *lengths[:-1]]).tolist()
        if self.store.cells < sum(lengths) or not self.store.unused:
            return
        self.store.prefixes.overwrite(Range(0, sum(lengths)))
        spans = [(b, 0, length) for b, length in enumerate(lengths)]
        rows = Rows.spans(spans, self.store.keys.device, lengths=lengths, bases=bases)
        x_ND = self.store.keys.new_zeros(rows.num_rows, self._width)
        deque(self._eager.run(1, 1, x_ND, rows, every=False), maxlen=0)

    def _load_head(self) -> None:
        """Load the kernels that score few rows: no step is to be the first that needs one."""
        assert self._input_ND is not None
        network = self._network
        for num_rows in buckets(_FEW_ROWS):
            logits_NV = network.head(network.final_norm(self._input_ND[:num_rows]))
            decide.score(logits_NV, network.config.mask_id, None)

    def _shape(self, first: int, last: int, rows: Rows, *, every: bool) -> Shape | None:
        """The graph that computes these rows; None if they, or their requests, are too many."""
        most = _most_rows(every=every)
        if rows.num_rows > most:
            return None
        if not ops.attends_by_tensors(self.store.keys):
            where = (rows.horizon.tobytes(), rows.base.tobytes(), rows.writes_N is not None)
            spread = (rows.requests, rows.counts, *where)
            return Shape(first, last, every, rows.num_rows, False, spread)
        far, num_rows = ops.splits_keys(rows), bucket(rows.num_rows)
        while num_rows <= most:
            shape = Shape(first, last, every, num_rows, far and ops.may_split(num_rows), None)
            if self._attention(shape).holds(rows):
                return shape
            num_rows = bucket(num_rows + 1)
        return None

    def _attention(self, shape: Shape) -> ops.CapturedAttention:
        keys, size = self.store.keys, self.store.keys.element_size()
        kv_heads, width = keys.shape[2:]
        return ops.CapturedAttention(
            self._heads, kv_heads, width, size, shape.num_rows, far=shape.splits
        )

    def _shapes_of(self, span: Span, num_rows: int) -> list[Shape]:
        """Those of a bucket that were not captured yet."""
        both = (False, True) if ops.may_split(num_rows) else (False,)
        shapes = [Shape(*span, num_rows, splits, None) for splits in both]
        return [shape for shape in shapes if shape not in self._graphs]

    def _prepare(self, shape: Shape, rows: Rows | None) -> Graph:
        keys = self.store.keys
        if shape.spread is None or rows is None:
            attention = self._attention(shape)
            sees = ops.FAR if shape.splits else 0
            static = Rows.static(shape.num_rows, sees, attention.room, keys.device)
        else:
            attention, static = None, rows.own()
        # All graphs read their input from the same memory: one runs at a time.
        if self._input_ND is None or len(self._input_ND) < shape.num_rows:
            most = max(shape.num_rows, MOST_ROWS if keys.is_cuda else 0)
            self._input_ND = keys.new_zeros(most, self._width)
        x_ND = self._input_ND[: shape.num_rows]
        # Not self: in a cycle, graphs would be freed at any time, and during a capture that fails.
        eager = self._eager

        def compute() -> list[tuple[int, Tensor]]:
            return list(eager.run(shape.first, shape.last, x_ND, static, every=shape.every))

        return Graph(static, x_ND, compute, attention)


def _upload(into: Tensor, values: np.ndarray) -> None:
    """Overwrite a tensor by values of the host, without waiting for what the device is doing."""
    source = torch.from_numpy(values)
    into.copy_(source.pin_memory() if into.is_cuda else source, non_blocking=True)


def bucket(count: int) -> int:
    """A number of rows that many are padded to: at most a quarter more, where that matters."""
    # Each of them is captured before the first step: 32 graphs in all.
    step = 16 if count <= 64 else 32 if count <= 128 else 64 if count <= 1024 else 256
    return -(-count // step) * step


def buckets(most: int) -> Iterator[int]:
    """All of them up to ``most`` rows, ascending."""
    count = 0
    while (count := bucket(count + 1)) <= most:
        yield count


def _most_rows(*, every: bool) -> int:
    return _MOST_ROWS_OF_EVERY if every else MOST_ROWS
