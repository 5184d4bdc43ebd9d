"""Batches laid out for the requests that wait: slots, K/V store, captured graphs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile

from skipstone.canvas import Geometry
from skipstone.engine.ages import Ages
from skipstone.engine.batch import Batch
from skipstone.engine.eager import EagerLayers
from skipstone.engine.graph import GraphLayers
from skipstone.engine.loop import Loop
from skipstone.engine.request import Handle
from skipstone.engine.runner import Layers, Runner
from skipstone.engine.scoring import Scorer
from skipstone.engine.step import Stepper
from skipstone.models.base import KVStore, Network

MOST_SLOTS = 256
"""Requests that are decoded at once at most; more wait."""


class Layout:
    """Lays out batches, and keeps what outlives them.

    It does not know the engine: in a cycle with it, graphs and stores would be freed at any time,
    and during a capture that fails.
    """

    def __init__(self, network: Network, slots: int, gen_length: int, *, graphs: bool) -> None:
        """Nothing is allocated before the first request.

        Args:
            network: decodes.
            slots: of a batch that others may join.
            gen_length: what those are expected to ask for.
            graphs: capture layers as CUDA graphs.
        """
        self._network = network
        self._slots, self._gen_length = slots, gen_length
        self._graphs = graphs
        self._kept: GraphLayers | None = None

    def begin(self, waiting: Sequence[Handle], queue: deque[Handle]) -> Loop:
        """A batch for those that wait, as far as they can share one."""
        sharing = list(takewhile(waiting[0].shares_with, waiting))
        return self.lay_out(sharing, queue, graphs=self._graphs)

    def lay_out(self, handles: Sequence[Handle], queue: deque[Handle], *, graphs: bool) -> Loop:
        """Slots that are long enough for these requests, and the loop that decodes them."""
        network, first = self._network, handles[0]
        slots = min(first.batch_size or len(handles), MOST_SLOTS)
        gen_length = max(len(handle.request.region) for handle in handles)
        prompt_length = max(len(handle.request.prompt) for handle in handles)
        if any(handle.joined for handle in handles):
            # Others may come, and of any length.
            slots, prompt_length = max(slots, self._slots), network.config.max_length
            gen_length = max(gen_length, self._gen_length)
        geometry = geometry_of(network, slots, prompt_length + gen_length, gen_length)
        skip = first.request.settings.skip.start(geometry)
        runner = Runner(network, skip, self._layers(geometry, graphs=graphs))
        batch = Batch.start(network.config, geometry, runner, Scorer(network, geometry))
        if first.observer is not None:
            batch.ages = Ages.start(batch.canvas)
        if isinstance(runner.layers, GraphLayers):
            runner.layers.warm_up(runner.spans())
        # A CPU computes while it launches; whoever wants states looks before they are overwritten.
        tapped = first.observer is not None and bool(first.observer.taps)
        ahead = 1 if network.device.type == "cuda" and not tapped else 0
        stepper = Stepper(batch, first.observer, overlaps=ahead > 0)
        return Loop(batch, stepper, queue, first, ahead=ahead)

    def _layers(self, geometry: Geometry, *, graphs: bool) -> Layers:
        """Layers over a store; with all graphs that were captured before, if it has room."""
        network, kept = self._network, self._kept
        # No request is longer than the model allows, however wide the canvas is.
        slots, length = geometry.batch, min(geometry.length, network.config.max_length)
        if graphs and kept is not None and kept.store.fits(slots, length):
            return kept
        if graphs and network.device.type == "cuda":
            # What is captured lies over this memory: it has room for the longest prompt at once.
            self._kept = kept = None
            length = network.config.max_length
        store = KVStore(network.config, slots, length, geometry.dtype, geometry.device)
        if not graphs:
            return EagerLayers(network, store)
        self._kept = GraphLayers(network, store)
        return self._kept


def geometry_of(network: Network, batch: int, length: int, gen_length: int) -> Geometry:
    """What policies are told of a batch."""
    return Geometry(
        batch=batch,
        length=length,
        gen_length=gen_length,
        num_layers=network.config.num_layers,
        width=network.config.width,
        dtype=network.dtype,
        device=network.device,
    )
