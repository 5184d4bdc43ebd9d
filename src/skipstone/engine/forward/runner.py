"""One forward: rows in, final states out, and who left or came on the way.

Where many rows are computed, those that a skip policy drops are packed away, which takes one read
of the device. Where few are, a forward is bound by reading the weights and packing would save
nothing: then they are computed all the same, but what they give is not taken.

Shape letters: N packed rows, D width, L canvas length, B requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from skipstone.canvas import StepContext
from skipstone.engine.forward.choosing import ChosenLayers, Part, Reuse
from skipstone.engine.forward.eager import EagerLayers
from skipstone.engine.forward.interventions import Intervention
from skipstone.engine.forward.layers import Layers
from skipstone.engine.forward.mlps import ChosenMlps
from skipstone.engine.forward.naming import Naming
from skipstone.engine.forward.places import among
from skipstone.engine.forward.skipping import Skipping
from skipstone.engine.observe import TappedStates, Taps
from skipstone.memory.store import KVStore
from skipstone.models.base import Network
from skipstone.rows import HostCopy, Rows, to_device, to_host
from skipstone.skip import SkipScores


class Span(NamedTuple):
    """Layers that are computed without a pause."""

    first: int
    last: int
    shown: bool
    """Whether the states after each of them are shown to the skip policy."""


class Named(NamedTuple):
    """What cache policies said before one layer."""

    layer: int
    rows: Rows
    """Those that went on through it."""


class Exit(NamedTuple):
    """What a skip policy said after one layer."""

    rows: Rows
    """The rows that it judged."""
    layer: int
    kept: HostCopy
    """bool [N]: those that go on."""
    fresh: Sequence[int]
    """Requests that could not lose a row."""

    def left(self) -> np.ndarray:
        """Bool [N], on the host: rows that do not go on."""
        return ~self.kept.wait()


@dataclass(frozen=True, eq=False)
class Pass:
    """What one forward computed."""

    entered: Rows
    """Rows that entered layer 1."""
    computed: Rows | None
    """Rows that the last layer computed; None if all rows had left."""
    x_ND: Tensor
    """States of these rows after the last layer."""
    kept_N: Tensor | None
    """bool: which of ``computed`` did not skip; None if the others were packed away."""
    exits: Sequence[Exit]
    """Each time that rows could leave, in order."""
    named: Sequence[Named]
    """Each time that a cache policy could name rows, in order."""
    reuses: Sequence[Reuse]
    """What became of the rows in each layer in which a cache policy chose."""
    skip: SkipScores | None
    states: dict[int, TappedStates]

    def finished(self) -> Rows | None:
        """Rows that went through every layer; waits until the host knows. None if none did."""
        cut = self.kept_N is not None or self.named or self.reuses
        if self.computed is None or not cut:
            return self.computed
        through = np.ones(self.computed.num_rows, dtype=bool)
        if self.kept_N is not None:
            through = ~self.exits[-1].left()
        for rows in (
            self.entered,
            *(n.rows for n in self.named),
            *(reuse.computed for reuse in self.reuses),
        ):
            through &= among(self.computed, rows)
        if through.all():
            return self.computed
        return self.computed.take(np.flatnonzero(through)) if through.any() else None

    def row_layers(self, batch: int, num_layers: int) -> tuple[np.ndarray, np.ndarray]:
        """Row-layers that could have been skipped, and that were: int64 [B] each."""
        could, did = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
        for exit in self.exits:
            deeper, request = num_layers - exit.layer, exit.rows.request
            judged = request[~exit.rows.of(exit.fresh)]
            could += deeper * np.bincount(judged, minlength=batch)
            did += deeper * np.bincount(request[exit.left()], minlength=batch)
        more_could, more_did = self._reused("layer", batch)
        return could + more_could, did + more_did

    def mlp_rows(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Row-layers of which the MLP alone could have been left out, and was: int64 [B] each."""
        return self._reused("mlp", batch)

    def values_renewed(self, batch: int) -> np.ndarray:
        """Row-layers whose values were computed for a policy to choose by: int64 [B]."""
        found = np.zeros(batch, np.int64)
        for rows in (rows for reuse in self.reuses for rows in reuse.renewed):
            found += np.bincount(rows.request, minlength=batch)
        return found

    def _reused(self, part: Part, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of which a part of a layer could have been left out, and was, over all layers."""
        could, did = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
        for reuse in self.reuses:
            if reuse.part == part:
                asked = reuse.asked
                left = ~among(asked, reuse.computed)
                could += np.bincount(asked.request, minlength=batch)
                did += np.bincount(asked.request[left], minlength=batch)
        return could, did

    def layer_parts(self, rows: Rows, num_layers: int) -> np.ndarray | None:
        """What each layer computed of each of ``rows``: uint8 [Y, N].

        0 for nothing, 1 for values alone, 2 for attention, 3 for all of it. None if no cache policy
        chose rows; of requests whose policies do not, it says 3, as of rows that left before.

        Args:
            rows: some of those that entered.
            num_layers: of the network.
        """
        if not self.reuses:
            return None
        parts_YN = np.full((num_layers, rows.num_rows), 3, np.uint8)
        for reuse in self.reuses:
            left = np.flatnonzero(~among(reuse.asked, reuse.computed))
            left_N = among(rows, reuse.asked.take(left))
            parts_YN[reuse.layer - 1, left_N] = 0 if reuse.part == "layer" else 2
            for renewed in reuse.renewed:
                parts_YN[reuse.layer - 1, left_N & among(rows, renewed)] = 1
        return parts_YN

    def first_layers(self, batch: int, length: int) -> np.ndarray | None:
        """The first layer that computed each position, 0 where none did: int64 [B, L].

        None if no row joined before a later layer than the first.

        Args:
            batch: B.
            length: L, of the canvas.
        """
        found_BL = np.zeros((batch, length), np.int64)
        for layer, rows in reversed([Named(1, self.entered), *self.named]):
            found_BL[rows.request, rows.position] = layer
        return found_BL if (found_BL > 1).any() else None

    def skip_layers(self, rows: Rows) -> np.ndarray:
        """The first layer that each of ``rows`` did not compute, 0 if there is none: int64 [N].

        That is of rows that left; one that a cache policy leaves out of a layer goes on after it.

        Args:
            rows: some of those that entered.
        """
        found = np.zeros(rows.num_rows, np.int64)
        for exit in self.exits:
            gone = among(rows, exit.rows.take(np.flatnonzero(exit.left())))
            found[gone & (found == 0)] = exit.layer + 1
        return found


@dataclass(eq=False)
class Runner:
    """Runs forwards over one K/V store."""

    network: Network
    skip: Skipping | None
    layers: Layers
    packs: bool = True
    """Whether rows that leave are packed away; else they are computed, and what they give is not
    taken."""
    intervention: Intervention | None = None
    """What an experiment does to forwards; None: nothing."""

    @property
    def store(self) -> KVStore:
        """Keys and values of all positions."""
        return self.layers.store

    def forward(
        self,
        rows: Rows,
        context: StepContext,
        *,
        fresh: Sequence[int],
        taps: Taps,
        naming: Naming | None = None,
    ) -> Pass:
        """Recompute ``rows``; overwrites their K/V in every layer that they reach.

        Args:
            rows: what to compute.
            context: where the requests are.
            fresh: requests whose rows may not skip in this step.
            taps: what an observer wants.
            naming: who names rows anew before a layer; None: nobody does.

        Raises:
            ConfigError: a skip policy breaks its contract; the message says how.
            PolicyError: it raises, or gives something else than rows that go on.
        """
        x_ND = self.network.embed(context.canvas.ids_BL[rows.request_N, rows.position_N])
        states = {0: TappedStates(rows, x_ND)} if 0 in taps.states else {}
        seeing = None if naming is None else naming.seeing
        self.store.visible_YBL = (
            None if seeing is None else seeing.visible(self.network.config.num_layers)
        )
        layers, reuses = self._layers(taps, naming)
        judges = self.skip is not None and not set(rows.requests) <= set(fresh)
        going = rows.protect(fresh) if judges else rows
        kept_N, exits, named = None, list[Exit](), list[Named]()
        for first, last, shown in self.spans(() if naming is None else naming.cuts):
            if naming is not None and first in naming.layers:
                going, x_ND = naming.before(first, x_ND, going)
                named.append(Named(first, going))
            if not going.num_rows:
                break
            said_N = None
            span = layers.run(first, last, x_ND, going, every=shown or bool(taps.states))
            for layer, x_ND in span:
                if layer in taps.states:
                    states[layer] = _kept_states(going, x_ND, kept_N)
                if shown:
                    said_N = self._show(layer, x_ND, going, context, judges=judges)
            if said_N is None:
                continue
            exits.append(Exit(going, last, to_host(said_N), fresh))
            going, x_ND, kept_N = self._leaving(exits[-1], x_ND, said_N)
        return Pass(
            entered=rows,
            computed=going if going.num_rows else None,
            x_ND=x_ND,
            kept_N=kept_N,
            exits=exits,
            named=named,
            reuses=reuses,
            skip=self.skip.scores if self.skip is not None else None,
            states=states,
        )

    def spans(self, cuts: Sequence[int] = ()) -> list[Span]:
        """What a forward asks of its layers, in order.

        A span ends where rows may leave or come: whatever computes it computes all of its layers.

        Args:
            cuts: layers with which a span begins, for cache policies that have a say there.
        """
        num_layers, stops = self.network.config.num_layers, self._stops
        ends = sorted({*stops, *(layer - 1 for layer in cuts), num_layers})
        seen_up_to = stops[-1] if stops else 0
        before = [0, *ends[:-1]]
        return [Span(b + 1, end, b < seen_up_to) for b, end in zip(before, ends, strict=True)]

    def _layers(self, taps: Taps, naming: Naming | None) -> tuple[Layers, list[Reuse]]:
        """Who computes: eagerly where states are kept, which nothing may overwrite, or replaced.

        And where keys are looked at or hidden: a captured graph reads no other table. With them
        comes what fills with the rows of layers in which cache policies choose.
        """
        asked = list[Intervention]() if self.intervention is None else [self.intervention]
        layers = self.layers
        if naming is not None and naming.attention is not None:
            asked.append(naming.attention)
        if naming is not None and naming.seeing is not None and naming.seeing.looks:
            asked.append(naming.seeing)
        if asked or taps.states or self.store.visible_YBL is not None:
            layers = EagerLayers(self.network, self.store, asked)
        reuses = list[Reuse]()
        if naming is not None and naming.choosing_mlps is not None:
            choosing, contexts = naming.choosing_mlps, naming.contexts
            layers = ChosenMlps(layers, self.network, choosing, contexts, asked, reuses)
        if naming is not None and naming.choosing is not None:
            layers = ChosenLayers(layers, self.network, naming.choosing, asked, reuses)
        return layers, reuses

    @property
    def _stops(self) -> tuple[int, ...]:
        return () if self.skip is None else self.skip.stops

    @property
    def _packs(self) -> bool:
        # A policy that decides again must not see the rows again that have left.
        return self.packs or len(self._stops) > 1

    def _leaving(
        self, said: Exit, x_ND: Tensor, kept_N: Tensor
    ) -> tuple[Rows, Tensor, Tensor | None]:
        """Rows and states that go on, and which of these count; None: all."""
        if self._packs:
            return *_packed(said.rows, x_ND, said), None
        return said.rows.writing(kept_N), x_ND, kept_N

    def _show(
        self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext, *, judges: bool
    ) -> Tensor | None:
        """Show states to the skip policy; which rows go on, if it says."""
        assert self.skip is not None
        if judges:
            return self.skip.keep(layer, x_ND, rows, context)
        self.skip.learn(layer, x_ND, rows, context)
        return None


def _packed(rows: Rows, x_ND: Tensor, said: Exit) -> tuple[Rows, Tensor]:
    """Rows and states without those that leave. The one read of the device that packing takes."""
    left = said.left()
    if not left.any():
        return rows, x_ND
    rows, index_N = rows.pack(np.flatnonzero(~left))
    return rows, x_ND[index_N]


def _kept_states(rows: Rows, x_ND: Tensor, kept_N: Tensor | None) -> TappedStates:
    """States of the rows that have not left; waits until the host knows which."""
    if kept_N is None:
        return TappedStates(rows, x_ND)
    index = np.flatnonzero(kept_N.cpu().numpy())
    return TappedStates(rows.take(index), x_ND[to_device(index, x_ND.device)])
