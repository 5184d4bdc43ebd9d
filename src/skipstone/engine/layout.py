"""Batches laid out for the requests that wait: slots, and layers over the arena."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import Literal, NamedTuple, get_args

from skipstone.canvas import Geometry
from skipstone.engine.ages import Ages
from skipstone.engine.arena import MOST_SLOTS, Arena
from skipstone.engine.batch import Batch
from skipstone.engine.beside import Beside, SessionsHold, bytes_of, held_by
from skipstone.engine.forward.asked import cuts
from skipstone.engine.forward.graph import GraphLayers
from skipstone.engine.forward.runner import Runner
from skipstone.engine.forward.skipping import Skipping
from skipstone.engine.loop import Loop
from skipstone.engine.request import Handle, Request
from skipstone.engine.score.scorer import Scorer
from skipstone.engine.step import Stepper
from skipstone.errors import ConfigError, nearest
from skipstone.memory.kept import Keeping
from skipstone.models.base import Network
from skipstone.quoting import shown

RunnerName = Literal["auto", "eager", "graph"]


class Layout:
    """Lays out batches over an arena that outlives them.

    It does not know the engine: in a cycle with it, graphs and stores would be freed at any time,
    and during a capture that fails.
    """

    def __init__(
        self, network: Network, arena: Arena, slots: int, gen_length: int, *, graphs: bool
    ) -> None:
        """Nothing is allocated before the first request.

        Args:
            network: decodes.
            arena: where keys and values go.
            slots: of a batch that others may join.
            gen_length: what those are expected to ask for.
            graphs: capture layers as CUDA graphs.
        """
        self._network, self._arena = network, arena
        self._slots, self._gen_length = slots, gen_length
        self._graphs = graphs

    def begin(self, waiting: Sequence[Handle], queue: deque[Handle]) -> Loop:
        """A batch for those that wait, as far as they can share one."""
        sharing = list(takewhile(waiting[0].shares_with, waiting))
        return self.lay_out(sharing, queue, graphs=self._graphs)

    def lay_out(self, handles: Sequence[Handle], queue: deque[Handle], *, graphs: bool) -> Loop:
        """Slots that are long enough for these requests, and the loop that decodes them."""
        network, first = self._network, handles[0]
        plan = self._plan(handles)
        lengths = [handle.request.length for handle in handles[: plan.geometry.batch]]
        shares = any(handle.request.prefix is not None for handle in handles)
        layers = self._arena.layers(lengths, plan.beside, graphs=graphs, keep=shares)
        runner = Runner(network, Skipping.start(first.request.settings.skip, plan.geometry), layers)
        scorer = Scorer(network, plan.geometry)
        batch = Batch.start(network.config, plan.geometry, runner, scorer)
        batch.keeping = self._arena.keeping
        batch.held = plan.held if self._arena.is_bounded else None
        if first.observer is not None:
            batch.ages = Ages.start(batch.canvas)
        if isinstance(runner.layers, GraphLayers):
            caches = [batch.caching.of(handle.request.settings.cache) for handle in handles]
            runner.layers.warm_up(runner.spans(cuts(caches)))
        # A CPU computes while it launches.
        ahead = 1 if network.device.type == "cuda" else 0
        stepper = Stepper(batch, first.observer, overlaps=ahead > 0)
        return Loop(batch, stepper, queue, first, ahead=ahead)

    def _plan(self, handles: Sequence[Handle]) -> _Plan:
        """As many slots as are asked for, or as memory has room for what sessions keep of them."""
        requests, arena = [handle.request for handle in handles], self._arena
        plan = self._with_slots(handles, self._asked_slots(handles))
        while arena.is_bounded and plan.beside.bytes:
            slots = plan.geometry.batch
            coming = [request.length for request in requests[:slots]]
            longest = [max(request.length for request in requests)]
            if arena.fits(coming, plan.beside) or (
                arena.gives_half(plan.beside.bytes) and arena.fits(longest, plan.beside)
            ):
                break
            if slots == 1:
                # Nobody beside the first, for which there is room by itself.
                first = requests[0]
                geometry = geometry_of(self._network, 1, first.length, len(first.region))
                return self._in(geometry, requests[:1])
            plan = self._with_slots(handles, slots // 2)
        return plan

    def _asked_slots(self, handles: Sequence[Handle]) -> int:
        called = sum(not handle.joined for handle in handles)
        slots = min(handles[0].batch_size or called, MOST_SLOTS)
        # Others may come.
        return max(slots, self._slots) if any(handle.joined for handle in handles) else slots

    def _with_slots(self, handles: Sequence[Handle], slots: int) -> _Plan:
        """A batch of so many slots, each long enough for any of these requests."""
        requests = [handle.request for handle in handles]
        gen_length = max(len(request.region) for request in requests)
        prompt_length = max(len(request.prompt) for request in requests)
        if any(handle.joined for handle in handles):
            # Others may come, and of any length.
            prompt_length = self._network.config.max_length
            gen_length = max(gen_length, self._gen_length)
        geometry = geometry_of(self._network, slots, prompt_length + gen_length, gen_length)
        return self._in(geometry, requests)

    def _in(self, geometry: Geometry, requests: Sequence[Request]) -> _Plan:
        held = held_by(requests, geometry)
        taken = bytes_of(held, requests[0].settings.skip, geometry)
        return _Plan(geometry, held, Beside(self._keeping(requests, taken), taken))

    def _keeping(self, requests: Sequence[Request], taken: int) -> Keeping:
        """What is kept for the first of them, and for others if all are short enough for that."""
        longest, keeping = [max(request.length for request in requests)], requests[0].keeping
        for request in requests:
            both = keeping | request.keeping
            if both != keeping and self._arena.fits(longest, Beside(both, taken)):
                keeping = both
        return keeping


class _Plan(NamedTuple):
    """A batch to be, and what there must be memory for beside keys and values."""

    geometry: Geometry
    held: SessionsHold
    beside: Beside


def captures(runner: RunnerName, network: Network) -> bool:
    """Whether a runner captures layers as graphs.

    Raises:
        ConfigError: there is no such runner.
    """
    if runner not in get_args(RunnerName):
        known = get_args(RunnerName)
        raise ConfigError(f"runner {shown(runner)} is unknown; {nearest(str(runner), known)}")
    return runner == "graph" or (runner == "auto" and network.device.type == "cuda")


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
        reach=network.config.reach,
    )
